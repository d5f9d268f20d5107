"""Two models fit together when every id means the same to both, whatever their padding."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from tiny import STOP, tokenizer
from tip.stages.models.vocabulary import check_compatible
from tip.storage.errors import ModelError


@dataclass(frozen=True)
class Card:
    """As much of a card as is looked at."""

    tokenizer: Any
    stop_ids: tuple[int, ...]
    head_rows: int


def card(words: int = 60, rows: int = 64, **changes: Any) -> Any:
    return replace(Card(tokenizer(words), (STOP,), rows), **changes)


class Renamed:
    """A tokenizer with some tokens of another name."""

    chat_template = None

    def __init__(self, names: dict[int, str], words: int = 60) -> None:
        self.names, self.words = names, words

    def get_vocab(self) -> dict[str, int]:
        return {self.names.get(i, w): i for w, i in tokenizer(self.words).get_vocab().items()}


def test_equal_tokenizers_leave_nothing_to_say() -> None:
    assert check_compatible(card(), card()) == ()


def test_padding_of_the_head_is_allowed_and_said() -> None:
    (note,) = check_compatible(card(rows=64), card(rows=72))
    assert "64" in note
    assert "72" in note


def test_a_few_tokens_that_only_one_side_names_are_allowed_and_said() -> None:
    (note,) = check_compatible(card(words=60), card(words=58))
    assert note.startswith("the student's tokenizer alone names 2 tokens, the first is 58 ('w58')")
    (note,) = check_compatible(card(words=58), card(words=60))
    assert note.startswith("the teacher's tokenizer alone names 2 tokens")


def test_two_swapped_tokens_are_refused_and_named() -> None:
    swapped = card(tokenizer=Renamed({5: "w6", 6: "w5"}))
    with pytest.raises(ModelError, match=r"2 of 60 ids.*first is 5 \('w5' against 'w6'\)") as it:
        check_compatible(card(), swapped)
    assert "\n" not in str(it.value)


def test_a_vocabulary_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match="share only 40 of 60"):
        check_compatible(card(words=60), card(words=40))


def test_other_stop_ids_and_another_template_are_said() -> None:
    other = tokenizer(60)
    other.chat_template = "{{ messages }}"
    notes = check_compatible(card(), card(stop_ids=(2, 7), tokenizer=other))
    assert len(notes) == 2
    assert "[1]" in notes[0]
    assert "[2, 7]" in notes[0]
    assert "templates differ" in notes[1]
