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

from ...storage.facts import TeacherFacts, TokensFacts
from ..arrays.batching import fill
from ..arrays.chunks import chunk_rows
from ..engines.protocols import Tick, silent
from ..models.language_model import LanguageModel
from ..signals.alignment import predicting_states
from ..signals.divergences import features
from ..signals.support import teacher_support
from .checks import recheck_both
from .settings import ScoreSettings
from .shard import RolloutArrays, read_rollouts
from .tables import (
    StoredSupport,
    as_stored,
    columns_in_order,
    feature_arrays,
    led_by,
    masses,
    places_back,
    refuse_unknown_ids,
    support_ids,
    supports_in_order,
    teacher_facts,
    teacher_table,
    tokens_table,
)


@torch.inference_mode()
def score_joint(
    student: LanguageModel,
    teacher: LanguageModel,
    rollouts: pa.Table,
    settings: ScoreSettings,
    *,
    teacher_prompts: Mapping[str, Sequence[int]] | None = None,
    tick: Tick = silent,
) -> tuple[pa.Table, pa.Table, TeacherFacts, TokensFacts]:
    """Score a shard with both models in memory: exact entropies and divergences.

    teacher_prompts: by prompt hash, where the teacher is shown another prompt than the student.
    Returns the `teacher` table, the `tokens` table (rows in the order of the rollouts, then of
    positions) and the facts of both. Raises `NumericsError` when a number is not finite or the
    independent check of a few rollouts disagrees, and `ModelError` for a token that a model does
    not have.
    """
    shard = read_rollouts(rollouts, teacher_prompts)
    refuse_unknown_ids("student", student, shard.responses.values)
    refuse_unknown_ids("teacher", teacher, shard.responses.values)
    lengths = [
        max(len(a), len(b)) + count - 1
        for a, b, count in zip(
            shard.student_prompts, shard.teacher_prompts, shard.responses.counts, strict=True
        )
    ]
    batches = fill(lengths, settings.batch_tokens)
    parts = []
    for rows in batches:
        states = predicting_states(student, shard.student_prompts, shard.responses, rows)
        theirs = predicting_states(teacher, shard.teacher_prompts, shard.responses, rows)
        parts.append(_joint_batch(student, teacher, states, theirs, shard, rows, settings))
        tick(int(shard.responses.counts[rows].sum()))
    back = places_back(batches, shard)
    supports = supports_in_order([support for support, _ in parts], back)
    columns = columns_in_order([numbers for _, numbers in parts], back, shard)
    checks = recheck_both(student, teacher, shard, columns, settings.check_rows)
    table = teacher_table(shard, supports, columns["teacher_entropy"])
    return (
        table,
        tokens_table(shard, columns, student),
        TeacherFacts.model_validate(teacher_facts(shard, table) | checks),
        TokensFacts.model_validate(masses(columns) | checks),
    )


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
    led = led_by(shard, shard.responses.places(rows), student.device)
    vocabulary = max(student.vocabulary, teacher.vocabulary)
    chunk = chunk_rows(settings.chunk_elements, vocabulary)
    supports, numbers = [], []
    for (some, ours), (_, others) in zip(
        student.head.pieces(states, chunk, vocabulary),
        teacher.head.pieces(theirs, chunk, vocabulary),
        strict=True,
    ):
        p, q = ours.log_softmax(1), others.log_softmax(1).to(student.device)
        ids, valid = support_ids(led, some, q, p.shape[1], settings)
        supports.append(teacher_support(q, ids, valid))
        numbers.append(features(p, q, led.tokens[some], ids, valid))
    return as_stored(supports), feature_arrays(numbers)
