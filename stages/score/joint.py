"""Scoring with both models in memory: exact entropies and divergences.

Both run over the same response ids; hidden states meet the two heads chunk by chunk, so nothing of
size [tokens, V] exists. Legend: N tokens of a batch, C rows of a chunk, K support slots, V
vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...storage.facts import TeacherFacts, TokensFacts
from ...storage.ledger import Ledger
from ..arrays.chunks import chunk_rows
from ..arrays.log_softmax import log_softmax
from ..engines.protocols import Tick, silent
from ..models.compiled import compiled_to_read
from ..models.language_model import LanguageModel
from ..signals.alignment import predicting_states
from ..signals.divergences import Features, features
from ..signals.fused_features import fused_features, fuses_features
from ..signals.support import StudentIds, Support
from .checks import check_model
from .settings import ScoreSettings
from .shard import RolloutArrays, led_ids, read_rollouts, refuse_unknown_ids, support_of
from .tables import Read, by_name, in_batches, send, teacher_result, tokens_result


@torch.inference_mode()
def score_joint(
    student: LanguageModel,
    teacher: LanguageModel,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
    ledger: Ledger | None = None,
) -> tuple[pa.Table, pa.Table, TeacherFacts, TokensFacts]:
    """Return the `teacher` and `tokens` tables of a shard, and the facts of both.

    teacher_prompts: by prompt hash, where the teacher is shown another prompt than the student.
    Rows stand in the order of the rollouts, then of positions. Raises `NumericsError` when a number
    is not finite, `DisagreementError` when a few rollouts scored again disagree, and `ModelError`
    for a token that a model does not have.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    refuse_unknown_ids("student", student, shard.responses.values)
    refuse_unknown_ids("teacher", teacher, shard.responses.values)
    lengths = np.maximum(
        shard.read_lengths(shard.student_prompts), shard.read_lengths(shard.teacher_prompts)
    )

    def score(rows: np.ndarray) -> Read:
        return _batch(student, teacher, shard, rows, settings)

    with compiled_to_read(settings.compile, student, teacher, ledger=ledger):
        supports, columns = in_batches(shard, lengths, settings.batch_tokens, score, tick)
    assert supports is not None  # `score` gives some
    gaps = [
        check_model(who, model, prompts, shard, columns[f"{who}_logprob"], settings.check_rows)
        for who, model, prompts in (
            ("student", student, shard.student_prompts),
            ("teacher", teacher, shard.teacher_prompts),
        )
    ]
    table, facts = teacher_result(shard, supports, columns["teacher_entropy"], gaps[1])
    tokens, of_tokens = tokens_result(shard, columns, student.card, gaps[0])
    return table, tokens, facts, of_tokens


def _batch(
    student: LanguageModel,
    teacher: LanguageModel,
    shard: RolloutArrays,
    rows: np.ndarray,
    settings: ScoreSettings,
) -> Read:
    """Send supports and features of a batch, taken chunk by chunk; see `send`."""
    device = student.device
    fused = settings.may_fuse and fuses_features(settings.fused, device)
    ours = predicting_states(student, shard.student_prompts, shard.responses, rows)
    theirs = predicting_states(teacher, shard.teacher_prompts, shard.responses, rows)
    places = shard.responses.places(rows)
    known = shard.student_ids(places, device)
    noise = shard.noise(places, settings, device)
    vocabulary = max(student.vocabulary, teacher.vocabulary)
    chunk = chunk_rows(settings.chunk(fused=fused), vocabulary)
    read = _fused if fused else _plain
    supports, numbers = [], []
    for (piece, our_logits), (_, their_logits) in zip(
        student.head.pieces(ours, chunk, vocabulary),
        teacher.head.pieces(theirs, chunk, vocabulary),
        strict=True,
    ):
        both = our_logits, their_logits.to(device)
        support, found = read(*both, known.rows(piece), noise[piece], settings)
        supports.append(support)
        numbers.append(found)
    return send(supports, by_name(numbers))


def _plain(
    student: Tensor, teacher: Tensor, known: StudentIds, noise: Tensor, settings: ScoreSettings
) -> tuple[Support, Features]:
    """Return support and features of C tokens, from logits [C, V_student] and [C, V_teacher]."""
    p, q = log_softmax(student), log_softmax(teacher)
    support = support_of(q, known, noise, p.shape[1], settings)
    led = None
    if settings.support == "sampled":  # what is drawn of the teacher lacks the student's ids
        led = led_ids(q, known, p.shape[1], settings)
    return support, features(p, q, known.tokens, support.ids, support.valid, led=led)


def _fused(
    student: Tensor, teacher: Tensor, known: StudentIds, _: Tensor, settings: ScoreSettings
) -> tuple[Support, Features]:
    """Return what `_plain` does; the teacher's logits are overwritten."""
    top_p, most = settings.teacher_top_p, settings.teacher_top_max
    return fused_features(student, teacher, known, student.shape[1], top_p, most)
