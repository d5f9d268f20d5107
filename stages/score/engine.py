"""A teacher that an engine holds: the `teacher` table from what the engine says of sequences.

An engine gives, for each position, the log-prob of the token itself and of its most probable ids,
and, where it can, of ids it is given. From these the support is cut as everywhere: the sampled
token, the student's top ids, the teacher's top ids. Where an engine cannot be given ids, those of
the student's among the engine's own stay, and the others are in the tail.

The tail is what was fetched and not kept, plus what was not fetched: one minus the sum of all that
was, which in float32 is right to about 1e-6 of mass. Legend: N tokens, E fetched ids, S ids the
student led, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...storage.errors import NumericsError
from ...storage.facts import TeacherFacts
from ..arrays.batching import evenly
from ..arrays.ragged import Ragged, concatenate
from ..engines.protocols import Scorer, Tick, silent
from .checks import CHECK_TOLERANCE
from .settings import ScoreSettings
from .shard import RolloutArrays, read_rollouts
from .tables import teacher_facts, teacher_table

_ROWS = 2048  # tokens whose [N, S, E] comparison of ids is held at once


_EXCESS = 1e-3  # log-prob above 0, or mass above 1, that rounding can explain


def score_with_engine(
    scorer: Scorer,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    dtype: str,
    student_vocabulary: int,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
) -> tuple[pa.Table, TeacherFacts]:
    """Return the `teacher` table of a shard and facts. dtype: `float32`, ..., for tolerances.

    The entropy is that of the fetched ids and one bucket for all others, a lower bound. Raises
    `NumericsError` where the engine answers for other tokens, gives what no log-probs are, or
    scores a rollout alone otherwise than among others.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    rows = np.flatnonzero(shard.responses.counts)
    led = [_led(shard, int(row), scorer.vocabulary) for row in rows]
    answers = _ask(scorer, shard, rows, led, settings, tick)
    limit = CHECK_TOLERANCE[getattr(torch, dtype)]
    common = min(student_vocabulary, scorer.vocabulary)
    parts, entropies = [], []
    for row, (ours, true), answer in zip(rows, led, answers, strict=True):
        _refuse_no_log_probs(answer, true, f"rollout {shard.rollouts[row]}")
        for start in range(0, len(ours), _ROWS):
            piece = slice(start, start + _ROWS)
            numbers = tuple(None if a is None else a[piece] for a in answer)
            asked = ours[piece], true[piece]
            _refuse_two_values(numbers, asked, limit)
            support, entropy = cut_support(numbers, asked, settings, scorer.vocabulary, common)
            parts.append(support)
            entropies.append(entropy)
    ids, logprobs, tails = zip(*parts, strict=True)
    supports = concatenate(list(ids)), concatenate(list(logprobs)), np.concatenate(tails)
    table = teacher_table(shard, supports, np.concatenate(entropies).astype(np.float32))
    gap = _recheck(scorer, shard, rows, answers, settings, limit)
    facts = {"teacher_check_gap": gap, "given_ids": scorer.given_ids}
    return table, TeacherFacts.model_validate(teacher_facts(shard, table) | facts)


def _led(shard: RolloutArrays, row: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the student's ids [n, S] of a response and which are true and the teacher's too."""
    ids, valid = shard.top.padded(shard.responses.places(np.array([row])))
    return ids, valid & (ids < vocabulary)


def _ask(
    scorer: Scorer,
    shard: RolloutArrays,
    rows: np.ndarray,
    led: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: ScoreSettings,
    tick: Tick,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return the engine's answers, after showing that they are about the ids asked."""
    sequences = [np.concatenate([shard.teacher_prompts[r], shard.responses.row(r)]) for r in rows]
    starts = [len(shard.teacher_prompts[r]) for r in rows]
    given: list[np.ndarray | None] | None = None
    if scorer.given_ids:
        given = [
            np.where(true, ids, -1).astype(np.int32) if ids.shape[1] else None for ids, true in led
        ]
    mean = shard.responses.counts[rows].mean()
    scored = scorer.score(
        sequences, starts, settings.engine_top, given, lambda n: tick(round(n * mean))
    )
    answers = [(a.ids, a.logprobs, a.given) for a in scored]
    for row, asked, (ids, _, values) in zip(
        rows, given or [None] * len(rows), answers, strict=True
    ):
        if not np.array_equal(ids[:, 0], shard.responses.row(row)):
            raise NumericsError(
                f"the teacher's engine answers for other tokens than those of rollout "
                f"{shard.rollouts[row]}: nothing of the shard is stored"
            )
        if asked is not None and (values is None or values.shape != asked.shape):
            raise NumericsError(
                f"the teacher's engine leaves out the student's ids in rollout "
                f"{shard.rollouts[row]}: nothing of the shard is stored; set score.engine = "
                "'transformers'"
            )
    return answers


def _refuse_no_log_probs(answer: tuple[Any, ...], true: np.ndarray, where: str) -> None:
    """Raise `NumericsError` where an answer holds NaN or a number above 0.

    A log-prob of minus infinity is one, but not that of a token that was sampled.
    """
    _, logprobs, given = answer
    values = logprobs.ravel() if given is None else np.append(logprobs, given[true])
    if np.isnan(values).any() or not np.isfinite(logprobs[:, 0]).all():
        raise NumericsError(
            f"the teacher's engine gives log-probs that are not finite in {where}: nothing of the "
            "shard is stored; try dtype = 'float32' for the teacher"
        )
    if values.max() > _EXCESS:
        raise _no_log_probs(f"a log-prob of {values.max():.3g} in {where}")


def _no_log_probs(what: str) -> NumericsError:
    return NumericsError(
        f"the teacher's engine gives {what}, as no distribution does: nothing of the shard is "
        "stored; a server must run with --logprobs-mode raw_logprobs"
    )


def _refuse_two_values(
    answer: tuple[Any, ...], led: tuple[np.ndarray, np.ndarray], limit: float
) -> None:
    """Raise `NumericsError` where ids both given and fetched have two log-probs.

    limit: largest mean difference in nats; both come from one pass, but not from one product.
    """
    ids, logprobs, given = answer
    if given is None:
        return
    ours, true = led
    token, slot, place = np.nonzero((ours[:, :, None] == ids[:, None, :]) & true[:, :, None])
    one, two = given[token, slot], logprobs[token, place]
    some = one != two  # minus infinity has no difference from itself
    gap = float(np.abs(one[some] - two[some]).sum()) / max(1, len(one))
    if not gap <= limit:
        raise NumericsError(
            f"the teacher's engine gives the same ids log-probs that differ by {gap:.3g} nats on "
            f"average when asked for them and when not (expected under {limit:g}): nothing of the "
            "shard is stored; set score.engine = 'transformers'"
        )


def cut_support(
    answer: tuple[Any, ...],
    led: tuple[np.ndarray, np.ndarray],
    settings: ScoreSettings,
    vocabulary: int,
    common: int,
) -> tuple[tuple[Ragged, Ragged, np.ndarray], np.ndarray]:
    """Return the support (ids, float16 log-probs, tail) and entropy of N tokens.

    answer: ids and log-probs [N, 1 + E] of the engine, log-probs [N, S] of the student's ids or
    None. led: the student's ids [N, S] and which are true. vocabulary: of the teacher. common: ids
    that both models have.
    """
    ids, logprobs, given = answer
    logprobs = logprobs.astype(np.float64)
    ours, true = led
    own = _own(logprobs[:, 1:], settings)
    if given is None:
        own |= ((ids[:, 1:, None] == ours[:, None, :]) & true[:, None, :]).any(2)
        extra = np.zeros((len(ids), 0), dtype=np.int64), np.zeros((len(ids), 0))
        wanted = np.zeros((len(ids), 0), dtype=bool)
    else:
        extra, wanted = (ours, given.astype(np.float64)), true
    everything = np.concatenate([ids, extra[0]], 1).astype(np.int64)
    values = np.concatenate([logprobs, extra[1]], 1)
    token = np.ones((len(ids), 1), dtype=bool)
    known = np.concatenate([token, np.ones_like(own), wanted], 1) & np.isfinite(values)
    keep = np.concatenate([token, own, wanted], 1) & (everything < common)
    # ids that were not fetched are no more probable than the last that was
    least = logprobs[:, -1]
    return _buckets(everything, values, known, keep, (vocabulary, least))


def _own(logprobs: np.ndarray, settings: ScoreSettings) -> np.ndarray:
    """Return which of the teacher's falling log-probs [N, E] belong to the support by mass."""
    mass = np.exp(logprobs)
    before = mass.cumsum(1) - mass
    kept = before < settings.teacher_top_p if settings.teacher_top_p < 1 else before > -1
    return kept & (np.arange(logprobs.shape[1]) < settings.teacher_top_max)


def _buckets(
    ids: np.ndarray,
    values: np.ndarray,
    known: np.ndarray,
    keep: np.ndarray,
    others: tuple[int, np.ndarray],
) -> tuple[tuple[Ragged, Ragged, np.ndarray], np.ndarray]:
    """Return the kept entries in the order of their ids, the tail of all others, the entropy.

    An id that stands twice counts once, and is kept if one of them is. others: the size of the
    vocabulary, and the largest log-prob [N] that an id not known can have.
    """
    vocabulary, most = others
    order = np.lexsort((~keep, np.where(known, ids, vocabulary)), axis=1)
    ids, values, known, keep = (np.take_along_axis(a, order, 1) for a in (ids, values, known, keep))
    known[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    keep &= known
    p = np.where(known, np.exp(values), 0)
    if p.sum(1).max(initial=0) > 1 + _EXCESS:
        raise _no_log_probs(f"a token's ids a mass of {p.sum(1).max():.4g}")
    count = known.sum(1)
    room = (vocabulary - count) * np.exp(most)
    unseen = np.clip(1 - p.sum(1), np.where(count < vocabulary, 1e-30, 0), room)
    outside = np.where(keep, 0, p).sum(1) + unseen
    with np.errstate(divide="ignore"):
        tail = np.log(outside)
        terms = np.where(unseen > 0, unseen * np.log(np.maximum(unseen, 1e-300)), 0)
    entropy = -(p * np.where(known, values, 0)).sum(1) - terms
    counts = keep.sum(1).astype(np.int32)
    stored = np.maximum(values[keep], np.finfo(np.float16).min).astype(np.float16)
    rows = Ragged(ids[keep].astype(np.int32), counts), Ragged(stored, counts)
    return (*rows, tail.astype(np.float32)), np.maximum(entropy, 0)


def _recheck(
    scorer: Scorer,
    shard: RolloutArrays,
    rows: np.ndarray,
    answers: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    settings: ScoreSettings,
    limit: float,
) -> float:
    """Score a few rollouts again, each alone; return the largest mean gap in nats."""
    gaps = [0.0]
    for place in evenly(settings.check_rows, len(rows)):
        row = int(rows[place])
        prompt = shard.teacher_prompts[row]
        sequence = np.concatenate([prompt, shard.responses.row(row)])
        again = scorer.score([sequence], [len(prompt)], 1)[0].logprobs[:, 0]
        gaps.append(float(np.abs(again - answers[place][1][:, 0]).mean()))
    gap = max(gaps) if np.isfinite(gaps).all() else float("nan")
    if not gap <= limit:
        raise NumericsError(
            f"teacher: log-probs of sampled tokens differ by {gap:.3g} nats on average when a "
            f"rollout is scored alone (expected under {limit:g}): its engine computes "
            "something else in a batch; nothing of the shard is stored"
        )
    return gap
