"""A teacher that an engine holds: the `teacher` table from what the engine says of sequences."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from ...storage.errors import DisagreementError, NumericsError
from ...storage.facts import TeacherFacts
from ..engines.protocols import Scorer, Tick, silent
from ..signals.fetched import EXCESS, Fetched, cut_support, no_log_probs
from ..signals.supports import joined
from .checks import CHECK_TOLERANCE, check_rollouts
from .settings import ScoreSettings
from .shard import RolloutArrays, read_rollouts
from .tables import refuse_nonfinite, teacher_result

_ROWS = 2048  # tokens whose [N, S, E] comparison of ids is held at once


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

    The entropy is a lower bound (`cut_support`). Raises `NumericsError` where the engine gives what
    no log-probs are, and `DisagreementError` where it answers for other tokens, gives an id two
    log-probs, or scores a rollout alone otherwise than among others.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    limit = CHECK_TOLERANCE[getattr(torch, dtype)]
    common = min(student_vocabulary, scorer.vocabulary)
    top_p, most = settings.teacher_top_p, settings.teacher_top_max
    supports, entropies, logprobs = [], [], []
    for row, fetched in zip(shard.answered, _ask(scorer, shard, settings, tick), strict=True):
        _refuse_no_log_probs(fetched, f"rollout {shard.rollouts[row]}")
        logprobs.append(fetched.logprobs[:, 0])
        for start in range(0, len(fetched.ids), _ROWS):
            piece = fetched.rows(slice(start, start + _ROWS))
            _refuse_two_values(piece, limit)
            cut, entropy = cut_support(piece, scorer.vocabulary, common, top_p, most)
            supports.append(cut)
            entropies.append(entropy)
    entropy = np.concatenate(entropies).astype(np.float32)
    refuse_nonfinite({"teacher_entropy": entropy}, shard)
    gap = _check(scorer, shard, np.concatenate(logprobs), settings.check_rows, limit)
    return teacher_result(shard, joined(supports), entropy, gap, given_ids=scorer.given_ids)


def _ask(
    scorer: Scorer, shard: RolloutArrays, settings: ScoreSettings, tick: Tick
) -> list[Fetched]:
    """Return the engine's answers, after showing that they are about the ids asked."""
    rows = shard.answered
    sequences = [_sequence(shard, row) for row in rows]
    starts = [len(shard.teacher_prompts[row]) for row in rows]
    tops = [_student_ids(shard, row, scorer.vocabulary) for row in rows]
    given: list[np.ndarray | None] | None = None
    if scorer.given_ids:
        given = [
            np.where(valid, ids, -1).astype(np.int32) if ids.shape[1] else None
            for ids, valid in tops
        ]
    answers = scorer.score(sequences, starts, settings.engine_top, given, tick)
    out = []
    for place, (row, (ids, valid), answer) in enumerate(zip(rows, tops, answers, strict=True)):
        if not np.array_equal(answer.ids[:, 0], shard.responses.row(row)):
            raise DisagreementError(
                f"the teacher's engine answers for other tokens than those of rollout "
                f"{shard.rollouts[row]}: nothing of the shard is stored"
            )
        asked = given[place] if given else None
        if asked is not None and (answer.given is None or answer.given.shape != asked.shape):
            raise DisagreementError(
                f"the teacher's engine leaves out the student's ids in rollout "
                f"{shard.rollouts[row]}: nothing of the shard is stored; set score.engine = "
                "'transformers'"
            )
        out.append(Fetched(answer.ids, answer.logprobs, ids, valid, answer.given))
    return out


def _sequence(shard: RolloutArrays, row: int) -> np.ndarray:
    return np.concatenate([shard.teacher_prompts[row], shard.responses.row(row)])


def _student_ids(shard: RolloutArrays, row: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the student's ids [n, S] of a response, and which count and are the teacher's too."""
    ids, valid = shard.top.padded(shard.responses.places(np.array([row])))
    return ids, valid & (ids < vocabulary)


def _refuse_no_log_probs(fetched: Fetched, where: str) -> None:
    """Raise `NumericsError` where an answer holds NaN or a number above 0.

    A log-prob of minus infinity is one, but not that of a token that was sampled.
    """
    logprobs, given = fetched.logprobs, fetched.given
    values = logprobs.ravel() if given is None else np.append(logprobs, given[fetched.valid])
    if np.isnan(values).any() or not np.isfinite(logprobs[:, 0]).all():
        raise NumericsError(
            f"the teacher's engine gives log-probs that are not finite in {where}: nothing of the "
            "shard is stored; try dtype = 'float32' for the teacher"
        )
    if values.max() > EXCESS:
        raise no_log_probs(f"a log-prob of {values.max():.3g} in {where}")


def _refuse_two_values(fetched: Fetched, limit: float) -> None:
    """Raise `DisagreementError` where ids both given and fetched have two log-probs.

    limit: largest mean difference in nats; both come from one pass, but not from one product.
    """
    if fetched.given is None:
        return
    same = fetched.student[:, :, None] == fetched.ids[:, None, :]
    token, slot, place = np.nonzero(same & fetched.valid[:, :, None])
    one, two = fetched.given[token, slot], fetched.logprobs[token, place]
    differ = one != two  # minus infinity has no difference from itself
    gap = float(np.abs(one[differ] - two[differ]).sum()) / max(1, len(one))
    if not gap <= limit:
        raise DisagreementError(
            f"the teacher's engine gives the same ids log-probs that differ by {gap:.3g} nats on "
            f"average when asked for them and when not (expected under {limit:g}): nothing of the "
            "shard is stored; set score.engine = 'transformers'"
        )


def _check(
    scorer: Scorer, shard: RolloutArrays, logprobs: np.ndarray, rows: int, limit: float
) -> float:
    """Score a few rollouts again, each alone; see `check_rollouts`."""

    def again(row: int, positions: np.ndarray) -> np.ndarray:
        start = len(shard.teacher_prompts[row])
        return scorer.score([_sequence(shard, row)], [start], 1)[0].logprobs[positions, 0]

    return check_rollouts("teacher", shard, logprobs, again, rows, limit)
