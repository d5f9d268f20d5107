"""Two lines that are told to a tracker, the second by another start."""

from pathlib import Path

from tip.pipeline.tracking.batches import Batch, Shown
from tip.pipeline.tracking.tracker import Told, opener

FIRST = Batch(
    0,
    "train",
    {"train/loss": 1.5, "train/residual/nats": 0.25},
    ((0, 2.0), (1, 1.0)),
    (Shown("1 + 1 =", "it is ⟦2⟧"),),
)
SECOND = Batch(1, "select", {"select/kept": 9.0}, alerts=("the student loses ground",))


def told(folder: Path, name: str) -> Told:
    return Told("tip", "mine", "0123456789abcdef", {"train.lr": 1e-5}, folder / name)


def tell(folder: Path, name: str) -> None:
    """Tell one line, let go, and tell the next as a second start does."""
    for batch in (FIRST, SECOND):
        tracker = opener(name)(told(folder, name))  # type: ignore[arg-type]
        tracker.send(batch)
        tracker.close()
