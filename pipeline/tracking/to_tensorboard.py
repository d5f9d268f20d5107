"""TensorBoard: event files below the run's folder, by tensorboardX, which needs no TensorFlow."""

from typing import Any
from uuid import uuid4

from tensorboardX import SummaryWriter

from .batches import Batch
from .tracker import Told, Tracker, as_markdown


class _Board:
    def __init__(self, told: Told) -> None:
        # Names of its files hold the second: two starts within one would write over each other.
        self._writer = SummaryWriter(str(told.folder), filename_suffix=f".{uuid4().hex[:8]}")
        lines = "\n".join(f"    {n} = {v!r}" for n, v in told.hyperparameters.items())
        self._writer.add_text("config", lines, 0)

    def send(self, batch: Batch) -> None:
        writer: Any = self._writer
        for name, value in batch.values.items():
            writer.add_scalar(name, value, batch.round)
        for step, loss in batch.steps:
            writer.add_scalar("train/step_loss", loss, step)
        if batch.rollouts:
            writer.add_text("rollouts", as_markdown(batch), batch.round)
        for text in batch.alerts:
            writer.add_text("alerts", text, batch.round)
        writer.flush()

    def close(self) -> None:
        self._writer.close()


def open_tracker(told: Told) -> Tracker:
    """Write further event files; TensorBoard shows all of a folder as one run."""
    return _Board(told)
