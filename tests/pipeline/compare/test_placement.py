"""Where the types of tokens lie: shares that add up, and classes of text."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from tip.pipeline.compare.placement import placement, token_classes
from tokenizers import AddedToken

from .test_scored import scored


class Words:
    """A tokenizer of five strings, over and over; the first id is special."""

    strings = ("</s>", "42", " word", "+", " ")
    all_special_ids = (0,)

    def decode(self, ids: list[int]) -> str:
        return self.strings[ids[0] % 5]


def test_a_token_is_classed_by_its_text_unless_it_is_special() -> None:
    ids = np.array([0, 1, 2, 3, 4, 2, 5])
    expected = ["special", "number", "word", "punctuation", "space", "word", "word"]
    assert token_classes(Words(), ids) == expected


class Flagged(Words):
    """One that flags a further id as special."""

    added_tokens_decoder: ClassVar = {7: AddedToken("<flag>", special=True), 8: AddedToken("w")}


def test_a_token_that_the_tokenizer_only_flags_is_special() -> None:
    assert token_classes(Flagged(), np.array([7, 8])) == ["special", "punctuation"]


def test_shares_of_types_and_of_classes_add_up(tmp_path: Path) -> None:
    round_ = scored(tmp_path)
    table = placement(round_, Words())
    assert table["type"].to_list() == ["Q1", "Q2", "Q3", "Q4"]
    assert table["share"].sum() == pytest.approx(1)
    classes = [name for name in table.columns if name.endswith(" share")][1:]
    assert len(classes) == 5
    assert table.select(pl.sum_horizontal(classes)).to_series().to_list() == [pytest.approx(1)] * 4


def test_means_of_a_type_are_those_of_its_tokens(tmp_path: Path) -> None:
    round_ = scored(tmp_path)
    types = round_.chosen("all", 1.0).filter(pl.col("type") == "Q3")
    tokens = round_.table().join(types, on=["rollout", "position"], how="semi")
    line = placement(round_, Words()).filter(pl.col("type") == "Q3")
    for name in ("student_entropy", "reverse_kl"):
        assert line[name].item() == pytest.approx(tokens[name].mean())
    assert 0 < line["relative_position"].item() <= 1
