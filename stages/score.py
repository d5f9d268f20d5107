"""Score: what the teacher says of every token of the student's rollouts.

From `rollouts` to `teacher` (support, log-probs, tail: the loss input) and `tokens` (the narrow
table that selection reads). Both models run over the same response ids; hidden states meet the two
heads chunk by chunk, so nothing of size [tokens, V] exists. Legend: N tokens of a batch, C rows of
a chunk, K support slots, V vocabulary.

The row of position t comes from the hidden state *before* response token t. Each shard re-scores a
few rollouts alone, through the whole model, and must find the same log-probs: a shift by one, a
wrong mask or a wrong head cannot pass.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..storage.columns import TEACHER, TOKENS, schema
from ..storage.errors import ModelError, NumericsError, StoreError
from .batching import fill
from .divergences import Features, features, support_features
from .engines import Tick, silent
from .loss import chunk_rows
from .models import LanguageModel
from .ragged import Ragged, concatenate, from_lists
from .recheck import recheck, recheck_both
from .rollout_arrays import RolloutArrays, predicting_states, read_rollouts
from .settings import ScoreSettings
from .support import from_rows, merge_ids, teacher_support, to_rows, top_ids

StoredSupport = tuple[Ragged, Ragged, np.ndarray]
"""Ids and log-probs, a row a token, and the tail of each, as the `teacher` table holds them."""

TEACHER_VERSION = 1
TOKENS_VERSION = 1


def teacher_inputs(
    teacher: str,
    dtype: str,
    rollouts: tuple[str, str],
    prompts: Sequence[Sequence[int]] | None,
    settings: ScoreSettings,
) -> dict:
    """Return what makes a shard of teacher scores. rollouts: key and content hash of its source.

    prompts: the teacher's own prompts where they differ from the student's (privileged context).
    """
    return {
        "version": TEACHER_VERSION,
        "teacher": teacher,
        "dtype": dtype,
        "rollouts": list(rollouts),
        "prompts": None if prompts is None else [list(p) for p in prompts],
        "teacher_top_p": settings.teacher_top_p,
        "teacher_top_max": settings.teacher_top_max,
    }


def tokens_inputs(student: str, dtype: str, teacher: tuple[str, str], mode: str) -> dict:
    """Return what makes a shard of the token table. mode: `exact` or `support`."""
    return {
        "version": TOKENS_VERSION,
        "student": student,
        "dtype": dtype,
        "teacher": list(teacher),
        "mode": mode,
    }


@torch.inference_mode()
def score_joint(
    student: LanguageModel,
    teacher: LanguageModel,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
) -> tuple[pa.Table, pa.Table, dict]:
    """Score a shard with both models in memory: exact entropies and divergences.

    teacher_prompts: by prompt hash, where the teacher is shown another prompt than the student.
    Returns the `teacher` table, the `tokens` table (rows in the order of the rollouts, then of
    positions) and facts. Raises `NumericsError` when a number is not finite or the independent
    check of a few rollouts disagrees, and `ModelError` for a token that a model does not have.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    _refuse_unknown_ids("student", student, shard.responses.values)
    _refuse_unknown_ids("teacher", teacher, shard.responses.values)
    lengths = [
        max(len(a), len(b)) + count - 1
        for a, b, count in zip(
            shard.student_prompts, shard.teacher_prompts, shard.responses.counts, strict=True
        )
    ]
    batches = fill(lengths, settings.batch_tokens)
    parts = []
    for rows in batches:
        states = predicting_states(student, shard.student_prompts, shard, rows)
        theirs = predicting_states(teacher, shard.teacher_prompts, shard, rows)
        parts.append(_joint_batch(student, teacher, states, theirs, shard, rows, settings))
        tick(int(shard.responses.counts[rows].sum()))
    back = _back(batches, shard)
    supports = _in_order([support for support, _ in parts], back)
    columns = _columns([numbers for _, numbers in parts], back, shard)
    checks = recheck_both(student, teacher, shard, columns, settings.check_rows)
    return (
        _teacher_table(shard, supports, columns["teacher_entropy"]),
        _tokens_table(shard, columns, student),
        _facts(shard, supports, columns) | checks,
    )


@torch.inference_mode()
def score_student(
    student: LanguageModel,
    rollouts: pa.Table,
    teacher: pa.Table,
    settings: ScoreSettings,
    *,
    tick: Tick = silent,
) -> tuple[pa.Table, dict]:
    """Make the `tokens` table of another student from stored teacher signals: no teacher runs.

    Divergences are over support and tail. Returns the table and facts. Raises `StoreError` for
    signals of other rollouts, else as `score_joint`.
    """
    shard = read_rollouts(rollouts, None)
    _refuse_other_signals(teacher, shard)
    stored = (
        from_lists(teacher["ids"]),
        from_lists(teacher["logprobs"]),
        teacher["tail"].to_numpy(),
        teacher["entropy"].to_numpy(),
    )
    _refuse_unknown_ids("student", student, shard.responses.values)
    _refuse_unknown_ids("student", student, stored[0].values)
    lengths = [
        len(p) + c - 1 for p, c in zip(shard.student_prompts, shard.responses.counts, strict=True)
    ]
    batches = fill(lengths, settings.batch_tokens)
    parts = []
    for rows in batches:
        states = predicting_states(student, shard.student_prompts, shard, rows)
        parts.append(_support_batch(student, states, shard, rows, stored, settings))
        tick(int(shard.responses.counts[rows].sum()))
    columns = _columns(parts, _back(batches, shard), shard)
    checks = recheck("student", student, shard.student_prompts, shard, columns, settings.check_rows)
    return _tokens_table(shard, columns, student), _masses(columns) | checks


def _joint_batch(
    student: LanguageModel,
    teacher: LanguageModel,
    states: Tensor,
    theirs: Tensor,
    shard: RolloutArrays,
    rows: np.ndarray,
    settings: ScoreSettings,
) -> tuple[StoredSupport, dict[str, np.ndarray]]:
    """Return support and features of a batch, chunk by chunk."""
    places = shard.responses.places(rows)
    chunk = chunk_rows(settings.chunk_elements, max(student.vocabulary, teacher.vocabulary))
    supports, numbers = [], []
    for start in range(0, len(places), chunk):
        where = places[start : start + chunk]
        tokens = torch.from_numpy(shard.responses.values[where].astype(np.int64))
        tokens = tokens.to(student.device)
        p = student.head.logits(states[start : start + chunk]).log_softmax(1)
        q = teacher.head.logits(theirs[start : start + chunk]).log_softmax(1).to(student.device)
        ids, valid = _support_ids(tokens, q, shard.top, where, p.shape[1], settings)
        supports.append(to_rows(teacher_support(q, ids, valid)))
        numbers.append(features(p, q, tokens, ids, valid))
    return _joined(supports), _numpy(numbers)


def _support_ids(
    tokens: Tensor,
    teacher: Tensor,
    top: Ragged,
    where: np.ndarray,
    vocabulary: int,
    settings: ScoreSettings,
) -> tuple[Tensor, Tensor]:
    """Return the support of C tokens: the sampled one, the student's top, the teacher's top."""
    ours, ours_valid = top.padded(where)
    groups = [
        (tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool)),
        (
            torch.from_numpy(ours.astype(np.int64)).to(tokens.device),
            torch.from_numpy(ours_valid).to(tokens.device),
        ),
    ]
    if settings.teacher_top_max:
        groups.append(top_ids(teacher, settings.teacher_top_p, settings.teacher_top_max))
    return merge_ids(groups, min(vocabulary, teacher.shape[1]))


def _joined(supports: list[StoredSupport]) -> StoredSupport:
    ids, logprobs, tails = zip(*supports, strict=True)
    return concatenate(list(ids)), concatenate(list(logprobs)), np.concatenate(tails)


def _numpy(chunks: list[Features]) -> dict[str, np.ndarray]:
    """Return the features of all chunks as float32 arrays (ranks as int32)."""
    out = {}
    for name, *values in zip(Features._fields, *chunks, strict=True):
        type_ = np.int32 if name == "teacher_rank" else np.float32
        out[name] = torch.cat(values).cpu().numpy().astype(type_)
    return out


def _support_batch(
    student: LanguageModel,
    states: Tensor,
    shard: RolloutArrays,
    rows: np.ndarray,
    stored: tuple[Ragged, Ragged, np.ndarray, np.ndarray],
    settings: ScoreSettings,
) -> dict[str, np.ndarray]:
    places = shard.responses.places(rows)
    chunk = chunk_rows(settings.chunk_elements, student.vocabulary)
    numbers = []
    for start in range(0, len(places), chunk):
        where = places[start : start + chunk]
        tokens = torch.from_numpy(shard.responses.values[where].astype(np.int64))
        log_probs = student.head.logits(states[start : start + chunk]).log_softmax(1)
        entropy = torch.from_numpy(stored[3][where]).to(student.device)
        support = from_rows(stored[0], stored[1], stored[2], where, student.device)
        numbers.append(support_features(log_probs, support, tokens.to(student.device), entropy))
    return _numpy(numbers)


def _back(batches: list[np.ndarray], shard: RolloutArrays) -> np.ndarray:
    """Return where, in the order of the batches, each token of the shard's order was made."""
    made = np.concatenate([shard.responses.places(rows) for rows in batches])
    return np.argsort(made, kind="stable")


def _in_order(parts: list[StoredSupport], back: np.ndarray) -> StoredSupport:
    ids, logprobs, tail = _joined(parts)
    return ids.take(back), logprobs.take(back), tail[back]


def _columns(
    parts: list[dict[str, np.ndarray]], back: np.ndarray, shard: RolloutArrays
) -> dict[str, np.ndarray]:
    """Return the features of all batches in the shard's order; refuse what is not finite."""
    columns = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
    _refuse_nonfinite(columns, shard)
    return columns


def _refuse_nonfinite(columns: dict[str, np.ndarray], shard: RolloutArrays) -> None:
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


def _refuse_unknown_ids(who: str, model: LanguageModel, ids: np.ndarray) -> None:
    """Raise `ModelError` for ids of rollouts or supports that lie in another model's padding."""
    largest = int(ids.max(initial=0))
    if largest >= model.vocabulary:
        raise ModelError(
            f"the rollouts hold token id {largest}, which the {who} does not have (its head has "
            f"{model.vocabulary} rows): the model that made them puts mass on ids that name no "
            "token; take a model of the same head size, or a trained student"
        )


def _refuse_other_signals(teacher: pa.Table, shard: RolloutArrays) -> None:
    """Raise `StoreError` unless the teacher's rows are those of the shard, one by one."""
    expected = _positions(shard)
    found = teacher["rollout"].to_numpy(), teacher["position"].to_numpy()
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise StoreError(
            "the stored teacher signals are not those of these rollouts: run `tip cache verify`"
        )


def _positions(shard: RolloutArrays) -> tuple[np.ndarray, np.ndarray]:
    counts = shard.responses.counts.astype(np.int64)
    starts = np.repeat(counts.cumsum() - counts, counts)
    return np.repeat(shard.rollouts, counts), np.arange(counts.sum()) - starts


def _teacher_table(shard: RolloutArrays, supports: StoredSupport, entropy: np.ndarray) -> pa.Table:
    ids, logprobs, tail = supports
    rollout, position = _positions(shard)
    columns = {
        "rollout": rollout,
        "position": pa.array(position.astype(np.int32)),
        "ids": ids.lists(pa.int32()),
        "logprobs": logprobs.lists(pa.float16()),
        "tail": pa.array(tail, mask=~np.isfinite(tail)),
        "entropy": entropy,
    }
    return pa.table(columns, schema=schema(TEACHER))


def _tokens_table(
    shard: RolloutArrays, columns: dict[str, np.ndarray], student: LanguageModel
) -> pa.Table:
    rollout, position = _positions(shard)
    special = [*getattr(student.card.tokenizer, "all_special_ids", []), *student.card.stop_ids]
    return pa.table(
        {
            "rollout": rollout,
            "position": position.astype(np.int32),
            "token": shard.responses.values.astype(np.int32),
            "trainable": shard.trainable,
            "special": np.isin(shard.responses.values, special),
            **columns,
        },
        schema=schema(TOKENS),
    )


def _masses(columns: dict[str, np.ndarray]) -> dict:
    return {
        "tokens": len(columns["reverse_kl"]),
        "student_mass": float(columns["student_mass"].mean()),
        "teacher_mass": float(columns["teacher_mass"].mean()),
        "reverse_kl": float(columns["reverse_kl"].mean(dtype=np.float64)),
    }


def _facts(shard: RolloutArrays, supports: StoredSupport, columns: dict) -> dict:
    teacher_tokens = sum(len(p) for p in shard.teacher_prompts) + len(shard.responses.values)
    return _masses(columns) | {
        "teacher_tokens": int(teacher_tokens),
        "entries": len(supports[0].values),
    }
