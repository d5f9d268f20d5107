"""The end of every way of scoring: numbers in the shard's order become tables and facts.

Whoever gives the numbers (both models, one of them, an engine) works in an order and in pieces of
its own; here they come back into the order of the rollouts, are refused where one is not finite,
and become the `teacher` and `tokens` tables. Legend: N tokens of a shard.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...storage.columns import TEACHER, TOKENS, schema
from ...storage.errors import NumericsError
from ...storage.facts import TeacherFacts, TokensFacts
from ..arrays.batching import fill
from ..arrays.coming import ComingColumns
from ..engines.protocols import Tick
from ..models.card import ModelCard
from ..signals.divergences import Features
from ..signals.support import Support
from ..signals.supports import Supports, joined, of_columns, support_columns
from .shard import RolloutArrays

Columns = dict[str, np.ndarray]
"""Numbers of N tokens by name, [N] each."""

Read = Callable[[], tuple[Supports | None, Columns]]
"""Gives supports and numbers of the tokens of a batch, once they are on the host."""

Batch = Callable[[np.ndarray], Read]
"""Scores the tokens of some rollouts, rollout after rollout, and sends what is found there."""


def in_batches(
    shard: RolloutArrays, lengths: np.ndarray, budget: int, score: Batch, tick: Tick
) -> tuple[Supports | None, Columns]:
    """Return what `score` gives of all rollouts, in the shard's order.

    lengths: tokens that are read of each rollout. budget: of a batch, padding included. Raises
    `NumericsError` for a number that is not finite.
    """
    batches = fill(lengths, budget)
    supports, columns = [], []
    sent: deque[tuple[np.ndarray, Read]] = deque()
    for rows in (*batches, None):
        if rows is not None:
            sent.append((rows, score(rows)))
        if rows is None or len(sent) > 1:  # a GPU is at the next batch while this one is read
            done, read = sent.popleft()
            support, numbers = read()
            supports.append(support)
            columns.append(numbers)
            tick(int(shard.responses.counts[done].sum()))
    made = np.concatenate([shard.responses.places(rows) for rows in batches])
    back = np.argsort(made, kind="stable")
    whole = {name: np.concatenate([c[name] for c in columns])[back] for name in columns[0]}
    refuse_nonfinite(whole, shard)
    kept = [support for support in supports if support is not None]
    return joined(kept).take(back) if kept else None, whole


def send(supports: Sequence[Support], numbers: Mapping[str, Sequence[Tensor]]) -> Read:
    """Send what the chunks of a batch gave to the host as one copy; return what reads it there.

    supports: those of each chunk, or none at all. numbers: by name, [C] of each chunk.
    """
    columns = {name: torch.cat(list(values)) for name, values in numbers.items()}
    coming = ComingColumns(columns | (support_columns(supports) if supports else {}))

    def read() -> tuple[Supports | None, Columns]:
        arrays = coming.arrays()
        return of_columns(arrays) if supports else None, {name: arrays[name] for name in numbers}

    return read


def by_name(chunks: Sequence[Features]) -> dict[str, list[Tensor]]:
    """Return the features of all chunks, name by name."""
    return {name: values for name, *values in zip(Features._fields, *chunks, strict=True)}


def refuse_nonfinite(columns: Columns, shard: RolloutArrays) -> None:
    """Raise `NumericsError` naming the first number that is not finite, and its place."""
    for name, values in columns.items():
        bad = ~np.isfinite(values)
        if bad.any():
            place = int(bad.argmax())
            row = int(np.searchsorted(shard.responses.offsets, place, side="right")) - 1
            raise NumericsError(
                f"{name} is {values[place]} at position {place - shard.responses.offsets[row]} of "
                f"rollout {shard.rollouts[row]} ({int(bad.sum())} such tokens in this shard): a "
                "model gave NaN or infinite logits; nothing of the shard is stored. Try dtype = "
                "'float32' for the student and the teacher"
            )


def teacher_result(
    shard: RolloutArrays,
    supports: Supports,
    entropy: np.ndarray,
    check_gap: float,
    *,
    given_ids: bool | None = None,
) -> tuple[pa.Table, TeacherFacts]:
    """Return the `teacher` table of a shard and its facts. entropy: [N] nats."""
    rollout, position = shard.positions()
    columns = {
        "rollout": rollout,
        "position": pa.array(position.astype(np.int32)),
        **supports.columns(),
        "entropy": entropy,
    }
    read = sum(len(p) for p in shard.teacher_prompts) + len(shard.responses.values)
    facts = TeacherFacts(
        teacher_tokens=int(read),
        entries=len(supports.ids.values),
        teacher_check_gap=check_gap,
        given_ids=given_ids,
    )
    return pa.table(columns, schema=schema(TEACHER)), facts


def tokens_result(
    shard: RolloutArrays, columns: Columns, student: ModelCard, check_gap: float
) -> tuple[pa.Table, TokensFacts]:
    """Return the `tokens` table of a shard and its facts.

    columns: the fields of `Features`; `lost_mass` may be among them, which is a fact alone.
    """
    rollout, position = shard.positions()
    columns = dict(columns)
    lost = columns.pop("lost_mass", None)
    # of this pass against the student that sampled: rounding, unless it is a replay
    drift = columns["student_logprob"] - shard.logprobs
    table = pa.table(
        {
            "rollout": rollout,
            "position": position.astype(np.int32),
            "token": shard.responses.values.astype(np.int32),
            "trainable": shard.trainable,
            "special": np.isin(shard.responses.values, student.special_ids),
            **columns,
            "drift": drift,
        },
        schema=schema(TOKENS),
    )
    moved = drift.astype(np.float64)
    facts = TokensFacts(
        tokens=len(rollout),
        reverse_kl=float(columns["reverse_kl"].mean(dtype=np.float64)),
        student_mass=float(columns["student_mass"].mean()),
        teacher_mass=float(columns["teacher_mass"].mean()),
        sampling_gap_rms=float(np.sqrt(np.mean(moved**2))),
        # KL(sampling student || this one), estimator k3 (Schulman 2020)
        off_policy_kl=float(np.mean(np.expm1(moved) - moved)),
        student_check_gap=check_gap,
        lost_mass=None if lost is None else float(lost.mean(dtype=np.float64)),
    )
    return table, facts
