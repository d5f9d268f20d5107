"""Scoring with one model in memory at a time: the teacher's pass, then the student's.

The teacher's pass keeps what the `teacher` table holds in any mode: the sampled token, the
student's top ids, which the rollouts carry, and the teacher's own. The student's pass then
compares over support and tail, so its numbers are marked `support`: lower bounds of the exact ones
that come close where the support holds nearly all mass. Legend: N tokens of a batch, C rows of a
chunk, S ids the student led, E ids an engine gave, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...storage.facts import TeacherFacts, TokensFacts
from ..arrays.batching import fill, on_device
from ..arrays.chunks import chunk_rows
from ..arrays.ragged import Ragged, from_lists
from ..engines.protocols import Tick, silent
from ..models.language_model import LanguageModel
from ..signals.alignment import predicting_states
from ..signals.divergences import Features, support_features
from ..signals.support import from_rows, teacher_support
from .checks import recheck
from .settings import ScoreSettings
from .shard import RolloutArrays, read_rollouts
from .tables import (
    StoredSupport,
    as_stored,
    columns_in_order,
    feature_arrays,
    led_by,
    lengths,
    masses,
    places_back,
    refuse_other_signals,
    refuse_unknown_ids,
    support_ids,
    supports_in_order,
    teacher_facts,
    teacher_table,
    tokens_table,
)

Stored = tuple[Ragged, Ragged, np.ndarray, np.ndarray]


@torch.inference_mode()
def score_teacher(
    teacher: LanguageModel,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    student_vocabulary: int,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
) -> tuple[pa.Table, TeacherFacts]:
    """Return the `teacher` table of a shard, without the student, and facts.

    student_vocabulary: rows of the student's head; other ids stay in the tail. The table is the
    one that scoring both models together gives, up to the rounding of other batches.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    refuse_unknown_ids("teacher", teacher, shard.responses.values)
    batches = fill(lengths(shard.teacher_prompts, shard), settings.batch_tokens)
    supports, numbers = [], []
    for rows in batches:
        support, found = _teacher_batch(teacher, shard, rows, student_vocabulary, settings)
        supports.append(support)
        numbers.append(found)
        tick(int(shard.responses.counts[rows].sum()))
    back = places_back(batches, shard)
    columns = columns_in_order(numbers, back, shard)
    checks = recheck("teacher", teacher, shard.teacher_prompts, shard, columns, settings.check_rows)
    table = teacher_table(shard, supports_in_order(supports, back), columns["teacher_entropy"])
    return table, TeacherFacts.model_validate(teacher_facts(shard, table) | checks)


def _teacher_batch(
    teacher: LanguageModel,
    shard: RolloutArrays,
    rows: np.ndarray,
    vocabulary: int,
    settings: ScoreSettings,
) -> tuple[StoredSupport, dict[str, np.ndarray]]:
    """Return support and the teacher's numbers of a batch."""
    states = predicting_states(teacher, shard.teacher_prompts, shard.responses, rows)
    led = led_by(shard, shard.responses.places(rows), teacher.device)
    chunk = chunk_rows(settings.chunk_elements, teacher.vocabulary)
    supports, entropies, logprobs = [], [], []
    for some, logits in teacher.head.pieces(states, chunk, teacher.vocabulary):
        q = logits.log_softmax(1)
        ids, valid = support_ids(led, some, q, vocabulary, settings)
        supports.append(teacher_support(q, ids, valid))
        entropies.append(-torch.linalg.vecdot(q.exp(), q))
        logprobs.append(q.gather(1, led.tokens[some, None]).squeeze(1))
    numbers = {"teacher_entropy": entropies, "teacher_logprob": logprobs}
    return as_stored(supports), {
        name: torch.cat(values).float().cpu().numpy() for name, values in numbers.items()
    }


@torch.inference_mode()
def score_student(
    student: LanguageModel,
    rollouts: pa.Table,
    teacher: pa.Table,
    settings: ScoreSettings,
    *,
    tick: Tick = silent,
) -> tuple[pa.Table, TokensFacts]:
    """Make the `tokens` table from stored teacher signals, and facts: no teacher runs.

    The student need not be the one that made the rollouts (a replay).

    `lost_mass` of the facts is the student's mean probability on those of its top ids that the
    support lacks: 0 where the teacher could be asked for them.
    """
    shard = read_rollouts(rollouts, None)
    refuse_other_signals(teacher, shard)
    stored = (
        from_lists(teacher["ids"]),
        from_lists(teacher["logprobs"]),
        teacher["tail"].to_numpy(),
        teacher["entropy"].to_numpy(),
    )
    refuse_unknown_ids("student", student, shard.responses.values)
    refuse_unknown_ids("student", student, stored[0].values)
    batches = fill(lengths(shard.student_prompts, shard), settings.batch_tokens)
    parts, lost = [], 0.0
    for rows in batches:
        numbers, mass = _student_batch(student, shard, rows, stored, settings)
        parts.append(numbers)
        lost += mass
        tick(int(shard.responses.counts[rows].sum()))
    columns = columns_in_order(parts, places_back(batches, shard), shard)
    checks = recheck("student", student, shard.student_prompts, shard, columns, settings.check_rows)
    facts = {"lost_mass": lost / max(1, len(shard.responses.values))}
    known = masses(columns) | checks | facts
    return tokens_table(shard, columns, student), TokensFacts.model_validate(known)


def _student_batch(
    student: LanguageModel,
    shard: RolloutArrays,
    rows: np.ndarray,
    stored: Stored,
    settings: ScoreSettings,
) -> tuple[dict[str, np.ndarray], float]:
    """Return the features of a batch, and the sum of the student's mass that the support lost."""
    states = predicting_states(student, shard.student_prompts, shard.responses, rows)
    places = shard.responses.places(rows)
    led = led_by(shard, places, student.device)
    supports = from_rows(stored[0], stored[1], stored[2], places, student.device)
    entropy = on_device(stored[3][places], student.device)
    chunk = chunk_rows(settings.chunk_elements, student.vocabulary)
    numbers: list[Features] = []
    lost: list[Tensor] = []
    for some, logits in student.head.pieces(states, chunk, student.vocabulary):
        log_probs = logits.log_softmax(1)
        support = supports.rows(some.start, some.stop)
        numbers.append(support_features(log_probs, support, led.tokens[some], entropy[some]))
        kept = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(1, support.ids, True)
        missing = led.valid[some] & ~kept.gather(1, led.ids[some])
        lost.append(log_probs.gather(1, led.ids[some]).exp().mul(missing).sum())
    return feature_arrays(numbers), float(torch.stack(lost).sum())
