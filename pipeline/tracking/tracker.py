"""What every tracker is, and which there are: a small file each, imported when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ...storage.errors import ConfigError
from ..config.track import Name
from .batches import Batch

PACKAGES: dict[Name, str] = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}


@dataclass(frozen=True)
class Told:
    """The run that a tracker is told of.

    id: what tells it from another of its name; a tracker goes on with the one that it knows by it.
    folder: where a tracker may keep files of its own.
    """

    project: str
    name: str
    id: str
    hyperparameters: dict[str, Any]
    folder: Path


class Tracker(Protocol):
    """Somebody who is told. Raises whatever its library does where it cannot be reached."""

    def send(self, batch: Batch) -> None:
        """Tell what a line says; when it returns, the tracker has it or keeps it itself."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Open = Callable[[Told], Tracker]


def opener(name: Name) -> Open:
    """Return what opens a tracker. Raises `ConfigError` where its package is not installed."""
    try:
        import_module(PACKAGES[name])
    except ImportError as error:
        raise ConfigError(
            f"track.to = {name!r} needs {PACKAGES[name]}: pip install 'tip-opd[{name}]', or leave "
            "it out"
        ) from error
    return import_module(f".to_{name}", __package__).open_tracker


def as_markdown(batch: Batch) -> str:
    """Return a round's rollouts in words, for trackers that show texts."""
    parts = (f"**{r.prompt}**\n\n{r.response}" for r in batch.rollouts)
    return f"Round {batch.round}; selected tokens in ⟦ ⟧.\n\n" + "\n\n---\n\n".join(parts)
