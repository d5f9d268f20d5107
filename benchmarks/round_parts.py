"""Where the seconds of a real round go: named functions are timed while the pipeline calls them.

A function's seconds are its own: what a named function that it calls takes is counted there. The
outermost one on the stack is the stage, so the parts of a stage add up to its time.
"""

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tip.pipeline.rounds import play as rounds
from tip.pipeline.works import rollouts, scores, selection, training
from tip.stages import holder
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.models import load as models
from tip.stages.models.head import Head
from tip.stages.models.language_model import LanguageModel
from tip.stages.score import joint as score
from tip.stages.train import step, train
from tip.stages.train.data import TrainingData
from tip.stages.train.worlds.alone import Alone
from tip.storage.store import drafts
from tip.storage.store.store import Store

READING = "reading: batches and supports"
LOADING = "reading: tables"

# (owner, attribute, part, closed): of a closed one the inside is not looked at.
WRAPPED: tuple[tuple[Any, str, str, bool], ...] = (
    (holder, "load_model", "model: weights from disk", False),
    (models, "check_head", "model: head and body against the whole", True),
    (LanguageModel, "hidden", "body forward", False),
    (Head, "logits", "head", False),
    (LocalEngine, "generate", "drawing, log-probs, top ids", False),
    (rollouts, "roll_out", "table", False),
    (scores, "score_joint", "softmax, divergences, support, table", False),
    (score, "check_model", "check: rollouts scored again alone", True),
    (scores, "read_table", "Parquet: reading", True),
    (selection, "select", "DuckDB", True),
    (drafts, "write_table", "Parquet: writing", True),
    (drafts, "content_hash", "store: hash of tables", True),
    (drafts, "file_hash", "store: hash of checkpoint", True),
    (Store, "ensure", "store: claims, commits, manifests", False),
    (training, "load_training_data", LOADING, True),
    (TrainingData, "support", READING, True),
    (TrainingData, "tokens", READING, True),
    (train, "fill", READING, True),
    (train, "micro_batch", READING, False),
    (train, "accumulate", READING, False),
    (step, "states_at", READING, False),
    (step, "sparse_loss", "head and loss", True),
    (torch.Tensor, "backward", "body backward", True),
    (torch.nn.utils, "clip_grad_norm_", "gradient clipping", True),
    (torch.optim.AdamW, "step", "optimiser step", True),
    (training, "train", "training loop, the rest", False),
    (training, "drift", "drift: rollouts read again after", True),
    (Alone, "leave", "training state: handed to its thread", True),
    (training, "export", "checkpoint to disk", True),
    (training, "model_fingerprint", "fingerprint of the checkpoint", True),
)
STAGES = (
    ("ensure_rollouts", "rollout"),
    ("ensure_scores", "score"),
    ("ensure_selection", "select"),
    ("ensure_training", "train"),
)


@dataclass
class Parts:
    """Seconds by (stage, part), and the training steps that were taken: data and rollouts."""

    seconds: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    training: list[tuple[TrainingData, Any]] = field(default_factory=list)
    _stack: list[list[Any]] = field(default_factory=list)  # [part, seconds of what it called, open]

    def of(self, stage: str) -> dict[str, float]:
        """Return the parts of a stage, the longest first."""
        found = {part: s for (name, part), s in self.seconds.items() if name == stage}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def timed(self, function: Any, part: str, closed: bool) -> Any:
        """Return a function that does the same and counts its seconds."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            beside = threading.current_thread() is not threading.main_thread()
            if beside or (self._stack and self._stack[-1][2]):
                return function(*args, **kwargs)
            frame = [part, 0.0, closed]
            self._stack.append(frame)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self._stack.pop()
                stage = self._stack[0][0] if self._stack else part
                if self._stack:
                    self._stack[-1][1] += took
                self.seconds[stage, part] += took - frame[1]

        return inner

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time all named functions inside the block."""
        before = []

        def put(owner: Any, name: str, value: Any) -> None:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)

        try:
            for owner, name, part, closed in WRAPPED:
                put(owner, name, self.timed(getattr(owner, name), part, closed))
            for name, stage in STAGES:
                put(rounds, name, self.timed(getattr(rounds, name), stage, False))
            put(train, "accumulate", self._noting_steps(train.accumulate))
            yield
        finally:
            for owner, name, value in reversed(before):
                setattr(owner, name, value)

    def _noting_steps(self, accumulate: Any) -> Any:
        @functools.wraps(accumulate)
        def inner(world: Any, step: Any, data: TrainingData, rows: Any, *more: Any) -> Any:
            self.training.append((data, rows))
            return accumulate(world, step, data, rows, *more)

        return inner
