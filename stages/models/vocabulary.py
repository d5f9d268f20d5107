"""Do two models speak of the same tokens? Asked before any work starts.

The number of rows in a head says little (padding differs between sizes of one family); the map
from id to token decides. Ids that only one side has are allowed where they name nothing.
"""

from typing import Any

from ...storage.errors import ModelError
from .card import ModelCard


def check_compatible(student: ModelCard, teacher: ModelCard) -> tuple[str, ...]:
    """Raise `ModelError` unless every id means the same token to both; return lesser
    differences in words.
    """
    ours, theirs = _by_id(student.tokenizer.get_vocab()), _by_id(teacher.tokenizer.get_vocab())
    _same_tokens(ours, theirs)
    notes = [*_named_by_one("student", ours, theirs), *_named_by_one("teacher", theirs, ours)]
    if set(student.stop_ids) != set(teacher.stop_ids):
        notes.append(
            f"stop ids differ: student {list(student.stop_ids)}, teacher {list(teacher.stop_ids)}; "
            "the student's end a rollout, and rollout.stop_ids"
        )
    if student.head_rows != teacher.head_rows:
        notes.append(
            f"heads differ in padding: student {student.head_rows} rows, teacher "
            f"{teacher.head_rows}; divergences run over the ids of both"
        )
    if _template(student.tokenizer) != _template(teacher.tokenizer):
        notes.append(
            "chat templates differ: both are shown the student's prompt (teacher.format gives the "
            "teacher one of its own)"
        )
    return tuple(notes)


def _by_id(vocabulary: dict[str, int]) -> dict[int, str]:
    return {i: token for token, i in vocabulary.items()}


def _same_tokens(ours: dict[int, str], theirs: dict[int, str]) -> None:
    shared = ours.keys() & theirs.keys()
    wrong = sorted(i for i in shared if ours[i] != theirs[i])
    if wrong:
        first = wrong[0]
        raise ModelError(
            f"student and teacher use different tokenizers: {len(wrong)} of {len(shared)} ids name "
            f"different tokens, the first is {first} ({ours[first]!r} against {theirs[first]!r}). "
            "Distillation token by token needs one vocabulary: choose a teacher of the same family"
        )
    if len(shared) < 0.9 * max(len(ours), len(theirs)):
        raise ModelError(
            f"student and teacher share only {len(shared)} of {max(len(ours), len(theirs))} "
            "tokens: choose a teacher of the same family"
        )


def _named_by_one(who: str, ids: dict[int, str], others: dict[int, str]) -> list[str]:
    """Return a note on the tokens that one tokenizer names alone, such as `<think>`."""
    alone = sorted(ids.keys() - others.keys())
    if not alone:
        return []
    return [
        f"the {who}'s tokenizer alone names {len(alone)} tokens, the first is {alone[0]} "
        f"({ids[alone[0]]!r}): the other model has never met them; see that no prompt holds one"
    ]


def _template(tokenizer: Any) -> str | None:
    return getattr(tokenizer, "chat_template", None)
