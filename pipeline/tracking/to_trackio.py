"""Trackio: a local database (TRACKIO_DIR), or the Space that TRACKIO_SPACE_ID names."""

import sys
from typing import Any

import trackio

from .batches import Batch
from .tracker import Told, Tracker, as_markdown


class _Run:
    def __init__(self, told: Told) -> None:
        _hush()
        self._run: Any = trackio.init(
            project=told.project,
            name=f"{told.name}-{told.id[:8]}",  # it knows runs by their names
            config=told.hyperparameters,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def send(self, batch: Batch) -> None:
        self._run.log({"round": batch.round, **batch.values}, step=batch.round)
        for step, loss in batch.steps:
            self._run.log({"train/step": step, "train/step_loss": loss}, step=step)
        if batch.rollouts:
            self._run.log({"rollouts": trackio.Markdown(as_markdown(batch))}, step=batch.round)
        for text in batch.alerts:
            title = f"round {batch.round} {batch.stage}"
            self._run.alert(title=title, text=text, step=batch.round)

    def close(self) -> None:
        trackio.finish()  # of this thread's run; else the process does it once more at its end


def _hush() -> None:
    """Let it print nothing: on the screen stands a run's table, and in a pipe what was asked for.

    Standard output is not redirected, since it is that of all threads.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio":
            vars(module)["print"] = lambda *_, **__: None


def open_tracker(told: Told) -> Tracker:
    """Go on with the run of this name, or begin one."""
    return _Run(told)
