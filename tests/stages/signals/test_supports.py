"""Supports survive storage, joining and taking: ids and tails exactly, log-probs to float16."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.arrays.coming import ComingColumns
from tip.stages.arrays.ragged import Ragged
from tip.stages.signals.support import (
    StudentIds,
    Support,
    merge_ids,
    support_ids,
    teacher_support,
    top_ids,
)
from tip.stages.signals.supports import (
    Cut,
    Supports,
    drawn_outside,
    joined,
    of_chunk,
    of_columns,
    of_table,
    stored,
    support_columns,
)
from tip.storage.columns import TEACHER, schema
from tip.storage.errors import StoreError

CPU = torch.device("cpu")
FLOAT16_STEP = 2.0**-11  # relative rounding of a normal float16


def chunk(rows: int, seed: int = 1) -> Support:
    """Return the supports of random rows over 25 ids, 1 to 12 ids each."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (6 * torch.randn(rows, 25, generator=generator)).log_softmax(1)
    ids, valid = merge_ids([top_ids(log_probs, 0.9, 12)], 25)
    return teacher_support(log_probs, ids, valid)


def whole() -> Support:
    """Return the support of one row that holds the whole vocabulary."""
    ids = torch.arange(2)[None]
    log_probs = torch.tensor([[0.5, 0.5]]).log()
    return teacher_support(log_probs, ids, torch.ones_like(ids, dtype=torch.bool))


def rows_of(supports: Supports) -> list[tuple[list[int], list[float], float]]:
    """Return ids, log-probs and tail of each token."""
    return [
        (supports.ids.row(n).tolist(), supports.logprobs.row(n).tolist(), float(tail))
        for n, tail in enumerate(supports.tail)
    ]


def table_of(supports: Supports) -> pa.Table:
    """Return a `teacher` table that holds them."""
    count = len(supports)
    others = {
        "rollout": np.zeros(count, np.int64),
        "position": np.arange(count, dtype=np.int32),
        "entropy": np.zeros(count, np.float32),
    }
    return pa.table(others | supports.columns(), schema=schema(TEACHER))


def test_ids_and_tails_are_kept_exactly_and_log_probs_to_float16() -> None:
    support, picked = chunk(40), np.array([7, 7, 0, 39, 12])
    again = of_chunk(support).padded(picked, CPU)
    for place, row in enumerate(picked):
        here, there = again.valid[place], support.valid[row]
        assert again.ids[place][here].tolist() == support.ids[row][there].tolist()
        torch.testing.assert_close(
            again.logprobs[place][here], support.logprobs[row][there], rtol=FLOAT16_STEP, atol=0
        )
        assert again.tail[place] == support.tail[row]


def test_an_unused_slot_repeats_an_id_of_its_own_row() -> None:
    again = of_chunk(chunk(40)).padded(np.arange(40), CPU)
    assert not again.valid.all()
    for ids, valid in zip(again.ids, again.valid, strict=True):
        assert set(ids[~valid].tolist()) <= {int(ids[0])}


def test_a_table_gives_back_what_it_was_made_of() -> None:
    made = joined([of_chunk(chunk(9)), of_chunk(whole())])
    table = table_of(made)
    assert rows_of(of_table(table)) == rows_of(made)
    assert rows_of(of_table(table.slice(3, 4))) == rows_of(made)[3:7]
    assert len(of_table(table.slice(0, 0))) == 0


def test_no_tail_is_null_in_a_table_and_minus_infinity_elsewhere() -> None:
    made = of_chunk(whole())
    assert made.tail.tolist() == [-math.inf]
    table = table_of(made)
    assert table["tail"].to_pylist() == [None]
    assert of_table(table).padded(np.array([0]), CPU).tail.tolist() == [-math.inf]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_tail_that_is_no_number_does_not_pass_for_none(wrong: float) -> None:
    made = of_chunk(whole())
    broken = Supports(made.ids, made.logprobs, np.array([wrong], dtype=np.float32))
    assert broken.columns()["tail"].null_count == 0


def test_log_probs_beyond_float16_are_stored_as_its_smallest_number() -> None:
    counts = np.array([2], dtype=np.int32)
    made = stored(np.array([0, 1]), np.array([0.0, -1e5]), counts, np.array([-math.inf]))
    assert made.logprobs.values.tolist() == [0.0, -65504.0]
    assert (made.ids.values.dtype, made.logprobs.values.dtype) == (np.int32, np.float16)


def test_chunks_follow_one_another() -> None:
    chunks = [chunk(3), chunk(5, seed=2)]
    expected = [row for c in chunks for row in rows_of(of_chunk(c))]
    made = of_columns(ComingColumns(support_columns(chunks)).arrays())
    assert rows_of(made) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_taking_from_joined_supports_is_taking_list_items(
    sizes: list[int], data: st.DataObject
) -> None:
    parts = [of_chunk(chunk(size, seed)) for seed, size in enumerate(sizes)]
    rows = [row for part in parts for row in rows_of(part)]
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    found = joined(parts).take(np.array(picked))
    assert rows_of(found) == [rows[i] for i in picked]
    assert len(found) == len(picked)


def test_no_supports_are_taken_where_none_are_asked() -> None:
    none = of_chunk(chunk(4)).take(np.zeros(0, dtype=np.int64))
    assert (len(none), len(none.ids.values)) == (0, 0)
    assert isinstance(none.ids, Ragged)


CUTS = [Cut(0.9, 64), Cut(0.99, 64), Cut(0.99, 12), Cut(1.0, 5), Cut(0.5, 300), Cut(0.9, 0)]


def enumerated(cut: Cut, vocabulary: int = 300) -> tuple[Supports, np.ndarray, Ragged, np.ndarray]:
    """Return what is stored of 5 contexts for each token that can be sampled there.

    Supports [5 x V], the sampled tokens, the student's top ids, and whether the sampled one is in
    neither model's part of the support.
    """
    generator = torch.Generator().manual_seed(3)
    teacher = (3 * torch.randn(5, vocabulary, generator=generator)).log_softmax(1)
    students = torch.rand(5, vocabulary, generator=generator).argsort(1)[:, :4]
    tokens = torch.arange(vocabulary).repeat(5)
    repeated, tops = (x.repeat_interleave(vocabulary, 0) for x in (teacher, students))
    known = StudentIds(tokens, tops, torch.ones_like(tops, dtype=torch.bool))
    ids, valid = support_ids(known, repeated, vocabulary, cut.top_p, cut.most)
    groups = [(tops, known.valid)]
    if cut.most:
        groups.append(top_ids(repeated, cut.top_p, cut.most))
    own, there = merge_ids(groups, vocabulary)
    outside = ~((own == tokens[:, None]) & there).any(1)
    top = Ragged(tops.numpy().ravel().astype(np.int32), np.full(len(tokens), 4, np.int32))
    return of_chunk(teacher_support(repeated, ids, valid)), tokens.numpy(), top, outside.numpy()


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_token_that_is_there_for_having_been_sampled_alone_is_known(cut: Cut) -> None:
    supports, tokens, top, expected = enumerated(cut)
    found = drawn_outside(supports, tokens, top, cut)
    assert expected.any()
    assert not expected.all()
    assert (found == expected).all()


def test_the_border_of_the_teachers_part_is_as_sharp_as_float16() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0 - 1e-5, 0.0, -1.0]])  # the second and third tie there
    teacher = logits.log_softmax(1).expand(5, -1)
    tokens = torch.arange(5)
    none = StudentIds(tokens, torch.zeros(5, 0).long(), torch.zeros(5, 0).bool())
    ids, valid = support_ids(none, teacher, 5, 1.0, 2)
    supports = of_chunk(teacher_support(teacher, ids, valid))
    nothing = Ragged(np.zeros(0, np.int32), np.zeros(5, np.int32))
    found = drawn_outside(supports, tokens.numpy(), nothing, Cut(1.0, 2))
    assert found.tolist() == [False, False, True, True, True]


def test_a_sampled_token_that_is_not_stored_is_refused() -> None:
    supports, tokens, top, _ = enumerated(Cut(0.9, 8))
    tokens[7] = next(i for i in range(300) if i not in supports.ids.row(7))
    with pytest.raises(StoreError, match="not in its stored support") as it:
        drawn_outside(supports, tokens, top, Cut(0.9, 8))
    assert "\n" not in str(it.value)
