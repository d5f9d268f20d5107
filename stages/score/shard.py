"""A shard of rollouts as arrays: what every way of scoring reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...storage.errors import ModelError, StoreError
from ..arrays.batching import on_device
from ..arrays.noise import token_uniforms
from ..arrays.ragged import Ragged, from_lists, within
from ..models.language_model import LanguageModel
from ..signals.alignment import read_lengths
from ..signals.support import StudentIds, Support, drawn_support, support_ids, teacher_support
from .settings import ScoreSettings


@dataclass(frozen=True)
class RolloutArrays:
    """R rollouts as arrays; the numbers of their tokens follow one another, [N].

    student_prompts, teacher_prompts: what each model is shown before the same response. top: the
    student's top ids, a row a token.
    """

    rollouts: np.ndarray
    student_prompts: list[np.ndarray]
    teacher_prompts: list[np.ndarray]
    responses: Ragged
    trainable: np.ndarray
    logprobs: np.ndarray
    top: Ragged

    @property
    def answered(self) -> np.ndarray:
        """Return the rollouts that have a token."""
        return np.flatnonzero(self.responses.counts)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rollout and position of each token."""
        counts = self.responses.counts
        return np.repeat(self.rollouts, counts), within(counts)

    def read_lengths(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the tokens [R] that a model reads of each rollout behind these prompts."""
        return read_lengths(np.array([len(p) for p in prompts]), self.responses.counts)

    def noise(self, tokens: np.ndarray, settings: ScoreSettings, device: torch.device) -> Tensor:
        """Return the draws [n, K] of some of the N tokens, none where ids are not drawn."""
        count = settings.draws if settings.support == "sampled" else 0
        rollouts, positions = (of_all[tokens] for of_all in self.positions())
        return on_device(token_uniforms(rollouts, positions, count), device)

    def student_ids(self, tokens: np.ndarray, device: torch.device) -> StudentIds:
        """Return the student's part of the support of some of the N tokens.

        A batch at a time: copies within the chunks would make a GPU wait for the host at each.
        """
        top, valid = self.top.padded(tokens)
        sampled = self.responses.values[tokens].astype(np.int64)
        return StudentIds(
            on_device(sampled, device),
            on_device(top.astype(np.int64), device),
            on_device(valid, device),
        )


def read_rollouts(
    table: pa.Table, teacher_prompts: Mapping[str, Sequence[int]] | None
) -> RolloutArrays:
    """Return the columns of the `rollouts` table as arrays.

    teacher_prompts: by prompt hash; None where the teacher is shown the student's prompts.
    """
    students = [np.asarray(ids) for ids in table["prompt_ids"].to_pylist()]
    teachers = students
    if teacher_prompts is not None:
        teachers = [np.asarray(teacher_prompts[h]) for h in table["prompt_hash"].to_pylist()]
    return RolloutArrays(
        table["rollout"].to_numpy(),
        students,
        teachers,
        from_lists(table["response_ids"]),
        from_lists(table["trainable"]).values,
        from_lists(table["logprobs"]).values,
        Ragged(from_lists(table["top_ids"]).values, from_lists(table["top_counts"]).values),
    )


def support_of(
    teacher: Tensor, student: StudentIds, noise: Tensor, vocabulary: int, settings: ScoreSettings
) -> Support:
    """Return the teacher's buckets of C tokens as they are stored.

    teacher: its log-probs [C, V]. noise: of the draws [C, K]. vocabulary: rows of the student's
    head; other ids are in the tail.
    """
    if settings.support == "sampled":
        return drawn_support(teacher, noise, vocabulary)
    return teacher_support(teacher, *led_ids(teacher, student, vocabulary, settings))


def led_ids(
    teacher: Tensor, student: StudentIds, vocabulary: int, settings: ScoreSettings
) -> tuple[Tensor, Tensor]:
    """Return the sampled token and both models' top ids of C tokens, as `support_ids` does."""
    top_p, most = settings.teacher_top_p, settings.teacher_top_max
    return support_ids(student, teacher, vocabulary, top_p, most)


def refuse_unknown_ids(who: str, model: LanguageModel, ids: np.ndarray) -> None:
    """Raise `ModelError` for ids of rollouts or supports that lie in another model's padding."""
    largest = int(ids.max(initial=0))
    if largest >= model.vocabulary:
        raise ModelError(
            f"the rollouts hold token id {largest}, which the {who} does not have (its head has "
            f"{model.vocabulary} rows): the model that made them puts mass on ids that name no "
            "token; take a model of the same head size, or a trained student"
        )


def refuse_other_signals(teacher: pa.Table, shard: RolloutArrays) -> None:
    """Raise `StoreError` unless the teacher's rows are those of the shard, one by one."""
    found = teacher["rollout"].to_numpy(), teacher["position"].to_numpy()
    if not all(np.array_equal(a, b) for a, b in zip(found, shard.positions(), strict=True)):
        raise StoreError(
            "the stored teacher signals are not those of these rollouts: run `tip cache verify`"
        )
