"""Scoring with one model in memory at a time: the teacher's pass, then the student's.

The teacher's pass keeps what the `teacher` table holds in any mode: the sampled token, the
student's top ids, which the rollouts carry, and the teacher's own. The student's pass then
compares over support and tail, so its numbers are marked `support`: lower bounds of the exact ones
that come close where the support holds nearly all mass. Legend: N tokens of a batch, C rows of a
chunk, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from ...storage.facts import TeacherFacts, TokensFacts
from ...storage.ledger import Ledger
from ..arrays.batching import on_device
from ..arrays.chunks import chunk_rows
from ..arrays.log_softmax import log_softmax
from ..engines.protocols import Tick, silent
from ..models.compiled import compiled_to_read
from ..models.language_model import LanguageModel
from ..signals.alignment import predicting_states
from ..signals.divergences import support_features
from ..signals.supports import Supports, of_table
from .checks import check_model
from .settings import ScoreSettings
from .shard import (
    RolloutArrays,
    read_rollouts,
    refuse_other_signals,
    refuse_unknown_ids,
    support_of,
)
from .tables import Read, by_name, in_batches, send, teacher_result, tokens_result


@torch.inference_mode()
def score_teacher(
    teacher: LanguageModel,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    student_vocabulary: int,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
    ledger: Ledger | None = None,
) -> tuple[pa.Table, TeacherFacts]:
    """Return the `teacher` table of a shard, without the student, and facts.

    student_vocabulary: rows of the student's head; other ids stay in the tail. The table is the
    one that scoring both models together gives, up to the rounding of other batches. Raises as
    `score_joint` does.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    refuse_unknown_ids("teacher", teacher, shard.responses.values)

    def score(rows: np.ndarray) -> Read:
        return _teacher_batch(teacher, shard, rows, student_vocabulary, settings)

    prompts = shard.teacher_prompts
    lengths = shard.read_lengths(prompts)
    with compiled_to_read(settings.compile, teacher, ledger=ledger):
        supports, columns = in_batches(shard, lengths, settings.batch_tokens, score, tick)
    assert supports is not None  # `score` gives some
    logprobs, rows = columns["teacher_logprob"], settings.check_rows
    gap = check_model("teacher", teacher, prompts, shard, logprobs, rows)
    return teacher_result(shard, supports, columns["teacher_entropy"], gap)


def _teacher_batch(
    teacher: LanguageModel,
    shard: RolloutArrays,
    rows: np.ndarray,
    vocabulary: int,
    settings: ScoreSettings,
) -> Read:
    """Send supports and the teacher's numbers of a batch; see `send`."""
    states = predicting_states(teacher, shard.teacher_prompts, shard.responses, rows)
    places = shard.responses.places(rows)
    known = shard.student_ids(places, teacher.device)
    noise = shard.noise(places, settings, teacher.device)
    chunk = chunk_rows(settings.chunk(), teacher.vocabulary)
    supports, entropies, logprobs = [], [], []
    for piece, logits in teacher.head.pieces(states, chunk, teacher.vocabulary):
        q, wanted = log_softmax(logits), known.rows(piece)
        supports.append(support_of(q, wanted, noise[piece], vocabulary, settings))
        entropies.append(-torch.linalg.vecdot(q.exp(), q))
        logprobs.append(q.gather(1, wanted.tokens[:, None]).squeeze(1))
    return send(supports, {"teacher_entropy": entropies, "teacher_logprob": logprobs})


@torch.inference_mode()
def score_student(
    student: LanguageModel,
    rollouts: pa.Table,
    teacher: pa.Table,
    settings: ScoreSettings,
    *,
    tick: Tick = silent,
    ledger: Ledger | None = None,
) -> tuple[pa.Table, TokensFacts]:
    """Make the `tokens` table from stored teacher signals, and facts: no teacher runs.

    The student need not be the one that made the rollouts (a replay). `lost_mass` of the facts is
    the student's mean probability on those of its top ids that the support lacks: 0 where the
    teacher could be asked for them. Raises as `score_joint` does, and `StoreError` for signals of
    other rollouts.
    """
    shard = read_rollouts(rollouts, None)
    refuse_other_signals(teacher, shard)
    supports, entropy = of_table(teacher), teacher["entropy"].to_numpy()
    refuse_unknown_ids("student", student, shard.responses.values)
    refuse_unknown_ids("student", student, supports.ids.values)

    def score(rows: np.ndarray) -> Read:
        return _student_batch(student, shard, rows, supports, entropy, settings)

    prompts = shard.student_prompts
    lengths = shard.read_lengths(prompts)
    with compiled_to_read(settings.compile, student, ledger=ledger):
        _, columns = in_batches(shard, lengths, settings.batch_tokens, score, tick)
    logprobs, rows = columns["student_logprob"], settings.check_rows
    gap = check_model("student", student, prompts, shard, logprobs, rows)
    return tokens_result(shard, columns, student.card, gap)


def _student_batch(
    student: LanguageModel,
    shard: RolloutArrays,
    rows: np.ndarray,
    supports: Supports,
    entropy: np.ndarray,
    settings: ScoreSettings,
) -> Read:
    """Send the features of a batch, and the student's mass that the support lost; see `send`."""
    states = predicting_states(student, shard.student_prompts, shard.responses, rows)
    tokens = shard.responses.places(rows)
    known = shard.student_ids(tokens, student.device)
    padded = supports.padded(tokens, student.device)
    entropies = on_device(entropy[tokens], student.device)
    chunk = chunk_rows(settings.chunk(), student.vocabulary)
    numbers, lost = [], []
    for piece, logits in student.head.pieces(states, chunk, student.vocabulary):
        log_probs, wanted = log_softmax(logits), known.rows(piece)
        support = padded.rows(piece.start, piece.stop)
        numbers.append(support_features(log_probs, support, wanted.tokens, entropies[piece]))
        kept = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(1, support.ids, True)
        missing = wanted.valid & ~kept.gather(1, wanted.top)
        lost.append(log_probs.gather(1, wanted.top).exp().mul(missing).sum(1))
    return send([], by_name(numbers) | {"lost_mass": lost})
