"""Weights & Biases: what is told goes through its own journal, which `wandb sync` sends later."""

import wandb

from .batches import Batch
from .tracker import Told, Tracker


class _Run:
    def __init__(self, told: Told) -> None:
        _refuse_to_ask()
        told.folder.mkdir(parents=True, exist_ok=True)
        self._run = run = wandb.init(
            project=told.project,
            name=told.name,
            id=told.id,
            resume="allow",
            config=told.hyperparameters,
            dir=str(told.folder),
            settings=wandb.Settings(silent=True, init_timeout=30, console="off"),
        )
        run.define_metric("round")
        run.define_metric("train/step")
        run.define_metric("*", step_metric="round")
        run.define_metric("train/step_loss", step_metric="train/step")

    def send(self, batch: Batch) -> None:
        self._run.log({"round": batch.round, **batch.values})
        for step, loss in batch.steps:
            self._run.log({"train/step": step, "train/step_loss": loss})
        if batch.rollouts:
            rows = [[batch.round, r.prompt, r.response] for r in batch.rollouts]
            table = wandb.Table(columns=["round", "prompt", "response"], data=rows)
            self._run.log({"round": batch.round, "rollouts": table})
        for text in batch.alerts:
            self._run.alert(title=f"round {batch.round} {batch.stage}", text=text)

    def close(self) -> None:
        self._run.finish()


def _refuse_to_ask() -> None:
    """Raise `RuntimeError` where it would ask on the terminal for a key, and wait for it."""
    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise RuntimeError("no API key: set WANDB_API_KEY, or WANDB_MODE=offline")


def open_tracker(told: Told) -> Tracker:
    """Go on with the run of this id, or begin one; WANDB_MODE=offline needs no network."""
    return _Run(told)
