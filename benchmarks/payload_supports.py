"""Which ids a support holds, and what the loss keeps of the dense one with it.

The dense reference is reverse KL over the whole vocabulary and its gradient p (log p/q - KL), in
float64. What is judged against it is the project's own path: `stages/signals/support.py`, float16
as stored, and the float32 gradient of `bucket_loss_`. Legend: C rows of a chunk, N tokens, K
support slots, V vocabulary, D hidden width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr
from tip.stages.models.language_model import LanguageModel
from tip.stages.rollout.settings import RolloutSettings
from tip.stages.score.settings import ScoreSettings
from tip.stages.score.shard import RolloutArrays
from tip.stages.score.tables import teacher_result
from tip.stages.signals.alignment import predicting_states
from tip.stages.signals.loss import bucket_loss_
from tip.stages.signals.objective import Objective
from tip.stages.signals.support import (
    Support,
    merge_ids,
    teacher_support,
    top_ids,
)
from tip.stages.signals.supports import Supports, joined, of_chunk
from torch import Tensor

ROLLOUTS_AT_ONCE, CHUNK = 8, 64


@dataclass(frozen=True)
class Choice:
    """Ids of a support: student and teacher top ids up to a mass, at most so many; 0: none."""

    student_top_p: float
    student_top_max: int
    teacher_top_p: float
    teacher_top_max: int
    sampled: bool = True

    @property
    def label(self) -> str:
        """Return the choice in words."""
        parts = [] if self.sampled or self.student_top_max else ["no sampled token"]
        for who, top_p, most in (
            ("student", self.student_top_p, self.student_top_max),
            ("teacher", self.teacher_top_p, self.teacher_top_max),
        ):
            if most:
                parts.append(f"{who} top-{most}" if top_p == 1 else f"{who} p {top_p:g} max {most}")
        return ", ".join(parts) or "sampled token alone"


_LED, _OWN = RolloutSettings(), ScoreSettings()
DEFAULT = Choice(_LED.student_top_p, _LED.student_top_max, _OWN.teacher_top_p, _OWN.teacher_top_max)
TEACHER_64 = Choice(0, 0, 1, 64)
CLASSICAL = Choice(0, 0, 1, 64, sampled=False)


def grid() -> list[Choice]:
    """Return the classical supports, then student x teacher settings."""
    choices = [CLASSICAL, TEACHER_64, Choice(1, 8, 1, 64)]
    for student_p in (0.9, 0.99, 0.999):
        for student_max in (8, 32, 64, 128):
            choices.append(Choice(student_p, student_max, 0, 0))
            for teacher_p in (0.9, 0.99):
                for teacher_max in (8, 32, 64):
                    choices.append(Choice(student_p, student_max, teacher_p, teacher_max))
    return choices


def short_grid() -> list[Choice]:
    """Return the classical supports, the default, and one setting of it changed at a time."""
    return [
        CLASSICAL,
        TEACHER_64,
        Choice(1, 8, 1, 64),
        *(Choice(0.99, most, 0, 0) for most in (8, 32, 64, 128)),
        *(replace(DEFAULT, student_top_max=most) for most in (8, 32)),
        DEFAULT,
        replace(DEFAULT, student_top_max=128),
        *(replace(DEFAULT, student_top_p=p) for p in (0.9, 0.999)),
        *(replace(DEFAULT, teacher_top_max=most) for most in (8, 32, 128)),
        replace(DEFAULT, teacher_top_p=0.9),
    ]


@dataclass(frozen=True)
class Chunk:
    """Logits [C, V] of both models that predict the same C sampled tokens."""

    tokens: Tensor
    student: Tensor
    teacher: Tensor

    def support(self, choice: Choice) -> Support:
        """Return the teacher's buckets of a choice."""
        groups = []
        if choice.sampled:
            flags = torch.ones_like(self.tokens[:, None], dtype=torch.bool)
            groups.append((self.tokens[:, None], flags))
        if choice.student_top_max:
            top = top_ids(self.student, choice.student_top_p, choice.student_top_max)
            groups.append(top)
        if choice.teacher_top_max:
            groups.append(top_ids(self.teacher, choice.teacher_top_p, choice.teacher_top_max))
        return teacher_support(self.teacher, *merge_ids(groups, self.student.shape[1]))


def chunks(student: LanguageModel, teacher: LanguageModel, shard: RolloutArrays) -> Iterator[Chunk]:
    """Yield log-probs of all tokens of a shard in their order."""
    for first in range(0, len(shard.rollouts), ROLLOUTS_AT_ONCE):
        rows = np.arange(first, min(first + ROLLOUTS_AT_ONCE, len(shard.rollouts)))
        states = predicting_states(student, shard.student_prompts, shard.responses, rows)
        theirs = predicting_states(teacher, shard.teacher_prompts, shard.responses, rows)
        tokens = torch.from_numpy(shard.responses.take(rows).values.astype(np.int64))
        for start in range(0, len(tokens), CHUNK):
            part = slice(start, start + CHUNK)
            yield Chunk(
                tokens[part],
                student.head.logits(states[part]).log_softmax(1),
                teacher.head.logits(theirs[part]).log_softmax(1),
            )


@torch.inference_mode()
def signal_tables(
    student: LanguageModel, teacher: LanguageModel, shard: RolloutArrays, choices: list[Choice]
) -> list[pa.Table]:
    """Return the `teacher` table of a shard for each choice."""
    stored: list[list[Supports]] = [[] for _ in choices]
    entropies = []
    for chunk in chunks(student, teacher, shard):
        entropies.append(-torch.linalg.vecdot(chunk.teacher.exp(), chunk.teacher).numpy())
        for parts, choice in zip(stored, choices, strict=True):
            parts.append(of_chunk(chunk.support(choice)))
    entropy = np.concatenate(entropies)
    return [teacher_result(shard, joined(parts), entropy, 0.0)[0] for parts in stored]


@dataclass
class Sums:
    """What is summed of one choice over N tokens; products with the dense gradient and its own."""

    stored: list[Supports] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    logits: np.ndarray = field(default_factory=lambda: np.zeros(2))
    hidden: np.ndarray = field(default_factory=lambda: np.zeros(2))


@dataclass(frozen=True)
class Quality:
    """One choice against the dense loss.

    entries: mean a token, without the tail. kept: summed bucket KL over summed dense KL. logits,
    hidden: cosine of the gradient of the summed loss to the dense one, all tokens as one vector.
    rank: Spearman correlation of the tokens' losses. table: as it is stored.
    """

    choice: Choice
    entries: float
    kept: float
    logits: float
    hidden: float
    rank: float
    table: pa.Table


@torch.inference_mode()
def qualities(
    student: LanguageModel, teacher: LanguageModel, shard: RolloutArrays, choices: list[Choice]
) -> tuple[list[Quality], float]:
    """Return what each choice keeps, and the mean dense reverse KL in nats a token."""
    head = student.head.weight.float()
    sums = [Sums() for _ in choices]
    dense, entropies, own_logits, own_hidden = [], [], 0.0, 0.0
    for chunk in chunks(student, teacher, shard):
        losses, gradient = dense_reverse_kl(chunk)
        back = gradient.float() @ head
        dense.append(losses.numpy())
        entropies.append(-torch.linalg.vecdot(chunk.teacher.exp(), chunk.teacher).numpy())
        own_logits += gradient.square().sum().item()
        own_hidden += back.square().sum(dtype=torch.float64).item()
        for total, choice in zip(sums, choices, strict=True):
            _add(total, chunk, choice, (gradient, back), head)
    expected, entropy = np.concatenate(dense), np.concatenate(entropies)
    found = []
    for total, choice in zip(sums, choices, strict=True):
        losses, stored = np.concatenate(total.losses), joined(total.stored)
        found.append(
            Quality(
                choice,
                float(stored.ids.counts.mean()),
                float(losses.sum() / expected.sum()),
                float(total.logits[0] / np.sqrt(total.logits[1] * own_logits)),
                float(total.hidden[0] / np.sqrt(total.hidden[1] * own_hidden)),
                float(np.asarray(spearmanr(losses, expected))[0]),
                teacher_result(shard, stored, entropy, 0.0)[0],
            )
        )
    return found, float(expected.mean())


def dense_reverse_kl(chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return reverse KL [C] and its gradient with respect to the student's logits [C, V], f64."""
    log_p = chunk.student.double().log_softmax(1)
    p, ratio = log_p.exp(), log_p - chunk.teacher.double().log_softmax(1)
    losses = torch.linalg.vecdot(p, ratio)
    return losses, p * (ratio - losses[:, None])


def _add(
    total: Sums, chunk: Chunk, choice: Choice, dense: tuple[Tensor, Tensor], head: Tensor
) -> None:
    supports = of_chunk(chunk.support(choice))
    total.stored.append(supports)
    support = supports.padded(np.arange(len(chunk.tokens)), torch.device("cpu"))
    logits = chunk.student.clone()
    losses, _, _ = bucket_loss_(logits, support, Objective("reverse_kl"))
    total.losses.append(losses.numpy())
    total.logits += _products(logits, dense[0])
    total.hidden += _products(logits @ head, dense[1])


def _products(ours: Tensor, dense: Tensor) -> np.ndarray:
    """Return the inner product of a gradient with the dense one and with itself, in float64."""
    wide = ours.double()
    return np.array([(wide * dense).sum().item(), wide.square().sum().item()])
