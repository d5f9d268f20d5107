"""The support is the union it should be, and its tail is exact."""

import math
from collections.abc import Iterator

import pytest
import torch
from devices import computed_on
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.signals.loss import bucket_loss_
from tip.stages.signals.objective import Objective
from tip.stages.signals.support import (
    NOTHING,
    StudentIds,
    drawn_support,
    largest,
    merge_ids,
    support_ids,
    teacher_support,
    top_ids,
)

TESTED = ("bucket_loss_", "drawn_support", "largest", "merge_ids", "support_ids")
TESTED += ("teacher_support", "top_ids")


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), *TESTED):
        yield


def flagged(sets: list[list[int]], slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return id sets of several rows as padded ids and flags; an unused slot holds some id."""
    ids = torch.tensor([row + [3] * (slots - len(row)) for row in sets], dtype=torch.long)
    flags = [[slot < len(row) for slot in range(slots)] for row in sets]
    return ids, torch.tensor(flags, dtype=torch.bool)


def masses(*probabilities: float) -> torch.Tensor:
    """Return one row of log-probs."""
    return torch.tensor([probabilities], dtype=torch.float64).log()


@st.composite
def groups_of_rows(draw: st.DrawFn) -> tuple[list[list[list[int]]], int]:
    """Return id sets [group][row] and a vocabulary; the first group has an id in every row."""
    vocabulary = draw(st.integers(1, 12))
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    first = [[draw(st.integers(0, vocabulary - 1))] for _ in range(rows)]
    ids = st.lists(st.integers(0, 15), max_size=6)
    return [first, *([draw(ids) for _ in range(rows)] for _ in range(groups))], vocabulary


@given(groups_of_rows())
def test_the_union_is_that_of_sets_in_ascending_order(
    case: tuple[list[list[list[int]]], int],
) -> None:
    groups, vocabulary = case
    ids, valid = merge_ids([flagged(g, max(map(len, g), default=0)) for g in groups], vocabulary)
    for row in range(len(groups[0])):
        union = set().union(*(group[row] for group in groups))
        assert ids[row][valid[row]].tolist() == sorted(i for i in union if i < vocabulary)
    assert (ids[~valid] < vocabulary).all(), "an unused slot must be safe to gather at"


def test_an_unused_slot_repeats_an_id_of_its_own_row() -> None:
    ids, valid = merge_ids([flagged([[5], [2]], 1), flagged([[5], [9]], 1)], 20)
    assert ids.tolist() == [[5, 5], [2, 9]]
    assert valid.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("count", [1, 5, 16])
@pytest.mark.parametrize("width", [40, 64 * 64, 64 * 70, 64 * 64 + 1])
@pytest.mark.parametrize("low", [-math.inf, 0.0])
def test_the_largest_numbers_are_those_of_topk(count: int, width: int, low: float) -> None:
    generator = torch.Generator().manual_seed(width)
    numbers = torch.randn(6, width, generator=generator)
    numbers[1] = torch.arange(width)  # the largest side by side
    numbers[2, 7:] = low  # fewer than asked for stand out
    numbers[3, ::70] += 9  # many in one column of the folded row
    numbers[4] = (numbers[4] * 2).round()  # ties
    numbers[5] = low
    values, places = largest(numbers, count)
    assert torch.equal(values, numbers.topk(count, dim=1).values)
    assert torch.equal(numbers.gather(1, places), values)
    assert all(len(set(row.tolist())) == count for row in places), "no place twice"
    cut = numbers[:, : width // 2]  # rows that do not follow each other in memory
    assert torch.equal(largest(cut, count)[0], cut.topk(count, dim=1).values)


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
    st.floats(0.05, 0.999),
    st.integers(1, 14),
)
def test_top_ids_are_the_smallest_set_that_reaches_the_mass(
    weights: list[float], top_p: float, most: int
) -> None:
    log_probs = (torch.tensor([weights], dtype=torch.float64) / sum(weights)).log()
    ids, kept = top_ids(log_probs, top_p, most)
    chosen = ids[0][kept[0]].tolist()
    probabilities = log_probs.exp()[0].tolist()
    assert len(set(chosen)) == len(chosen)
    outside = [p for i, p in enumerate(probabilities) if i not in chosen]
    assert min(probabilities[i] for i in chosen) >= max(outside, default=0)
    assert 1 <= len(chosen) <= most
    before_the_last = sum(probabilities[i] for i in chosen[:-1])
    assert before_the_last < top_p + 1e-12
    if len(chosen) < min(most, len(weights)):
        assert before_the_last + probabilities[chosen[-1]] >= top_p - 1e-12


def test_top_p_of_one_keeps_all_ids_however_small() -> None:
    log_probs = torch.tensor([[0.0, -50.0, -200.0]]).log_softmax(1)
    assert top_ids(log_probs, 1.0, 8)[1].tolist() == [[True, True, True]]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.4, [True, False, False]), (0.5, [True, False, False]), (0.6, [True, True, False])],
)
def test_the_id_that_reaches_the_mass_is_the_last_one_kept(
    top_p: float, expected: list[bool]
) -> None:
    assert top_ids(masses(0.5, 0.3, 0.2), top_p, 8)[1].tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_tail_of_1e_30_keeps_its_digits(dtype: torch.dtype) -> None:
    # 1 - sum of the rest would be exactly 0 here.
    logits = torch.tensor([[0.0, -70.0, -71.0, -72.0]], dtype=dtype)
    support = teacher_support(logits.log_softmax(1), torch.tensor([[0]]), torch.tensor([[True]]))
    expected = math.log(math.exp(-70) + math.exp(-71) + math.exp(-72))
    # rounding of a log-prob near -70 in float32 is 4e-6
    assert support.tail.item() == pytest.approx(
        expected, abs=1e-5 if dtype == torch.float32 else 1e-12
    )


def test_the_tail_and_the_support_add_up_to_one() -> None:
    log_probs = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    ids, kept = top_ids(log_probs, 0.8, 10)
    ids, valid = merge_ids([(ids, kept)], 30)
    support = teacher_support(log_probs, ids, valid)
    total = support.logprobs.exp().masked_fill(~valid, 0).sum(1) + support.tail.exp()
    torch.testing.assert_close(total, torch.ones(50), rtol=0, atol=1e-6)


def test_nothing_is_outside_the_whole_vocabulary() -> None:
    ids = torch.arange(3)[None]
    support = teacher_support(masses(0.5, 0.3, 0.2), ids, torch.ones_like(ids, dtype=torch.bool))
    assert support.tail.item() == -math.inf


def test_teacher_mass_on_ids_that_the_student_lacks_is_in_the_tail() -> None:
    teacher = masses(0.5, 0.2, 0.2, 0.1)
    ids, valid = merge_ids([flagged([[0, 1, 3]], 3)], vocabulary=2)
    support = teacher_support(teacher, ids, valid)
    assert ids[valid].tolist() == [0, 1]
    assert support.tail.exp().item() == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("most", [0, 4])
@pytest.mark.parametrize("vocabulary", [9, 30])
def test_a_support_is_the_sampled_token_the_students_top_and_the_teachers_top(
    most: int, vocabulary: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    teacher = (2 * torch.randn(20, 12, generator=generator)).log_softmax(1)
    tokens = torch.randint(0, 9, (20,), generator=generator)
    top = torch.randint(0, 12, (20, 3), generator=generator)
    valid = torch.rand(20, 3, generator=generator) < 0.7
    ids, kept = support_ids(StudentIds(tokens, top, valid), teacher, vocabulary, 0.8, most)
    best, best_kept = top_ids(teacher, 0.8, 4)
    for row in range(20):
        union = {int(tokens[row]), *top[row][valid[row]].tolist()}
        union |= set(best[row][best_kept[row]].tolist()) if most else set()
        assert ids[row][kept[row]].tolist() == sorted(i for i in union if i < vocabulary)


def test_a_slice_of_the_students_part_is_that_of_its_tokens() -> None:
    ids = torch.arange(6).view(3, 2)
    part = StudentIds(torch.tensor([7, 8, 9]), ids, ids % 2 == 0).rows(slice(1, 3))
    assert part.tokens.tolist() == [8, 9]
    assert part.top.tolist() == [[2, 3], [4, 5]]
    assert part.valid.tolist() == [[True, False], [True, False]]


def test_drawn_ids_have_their_share_of_the_draws() -> None:
    teacher = masses(0.25, 0.5, 0.25)
    noise = torch.tensor([[0.1, 0.9, 0.3, 0.7, 0.74]])
    support = drawn_support(teacher, noise, 3)
    kept = support.valid[0]
    assert support.ids[0][kept].tolist() == [0, 1, 2]
    torch.testing.assert_close(support.logprobs[0][kept].exp(), torch.tensor([0.2, 0.6, 0.2]))
    assert support.tail.tolist() == [NOTHING]
    padded = support.ids[0][~kept]
    assert set(padded.tolist()) <= {0, 1, 2}


def test_draws_of_ids_that_the_student_lacks_are_in_the_tail() -> None:
    noise = torch.tensor([[0.1, 0.9, 0.3, 0.7, 0.74]])
    support = drawn_support(masses(0.25, 0.5, 0.25), noise, 2)
    assert support.ids[0][support.valid[0]].tolist() == [0, 1]
    assert support.tail.exp().item() == pytest.approx(0.2)


def test_in_the_mean_over_all_draws_forward_kl_has_the_gradient_of_the_whole_vocabulary() -> None:
    q = torch.tensor([1, 2, 0, 5, 8, 4], dtype=torch.float64) / 20  # so that 20 draws are all
    every = (torch.arange(20) + 0.5) / 20
    noise = torch.cartesian_prod(every, every)
    logits = torch.tensor([0.3, -1.0, 0.5, 1.2, -0.4, 0.1], dtype=torch.float64)
    support = drawn_support(q.log().expand(len(noise), -1), noise, 6)
    gradient = logits.repeat(len(noise), 1)
    row = bucket_loss_(gradient, support, Objective("forward_kl"))
    torch.testing.assert_close(gradient.mean(0), logits.softmax(0) - q, rtol=0, atol=1e-7)
    assert row.nats.isfinite().all()
    torch.testing.assert_close(
        row.tail.exp(), 1 - torch.where(support.valid, logits.softmax(0)[support.ids], 0).sum(1)
    )
