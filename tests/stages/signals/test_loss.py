"""The sparse loss equals a dense float64 reference in value and gradient, and costs what it says.

Tolerances: float64 runs agree to 1e-12 of the largest entry, float32 runs to 2e-6 of it (3e-7 was
seen): a log-prob of size 10 is rounded at 1e-6, and a gradient is its product with p.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch
from devices import computed_on
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.arrays import chunks
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.models.head import Head, LogitMap
from tip.stages.settings import Divergence
from tip.stages.signals.loss import bucket_loss_, sparse_loss
from tip.stages.signals.objective import Objective
from tip.stages.signals.support import Support, merge_ids, teacher_support, top_ids
from torch import Tensor

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), "sparse_loss", "bucket_loss_"):
        yield


def normal(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


class Case:
    """N tokens with hidden states, a head, and a teacher; all in float64."""

    map = LogitMap()

    def __init__(self, tokens: int = 23, vocabulary: int = 40, width: int = 6, seed: int = 0):
        self.hidden = normal(tokens, width, seed=seed)
        self.weight = normal(vocabulary, width, seed=seed + 1)
        self.bias = normal(vocabulary, seed=seed + 2)
        self.teacher = normal(tokens, vocabulary, seed=seed + 3, spread=2).log_softmax(1)
        self.weights = normal(tokens, seed=seed + 4).abs()

    def whole(self) -> Support:
        """Return a support of all ids."""
        ids = torch.arange(self.teacher.shape[1]).expand(len(self.teacher), -1)
        return teacher_support(self.teacher, ids, torch.ones_like(ids, dtype=torch.bool))

    def sparse(self, top_p: float = 0.6, most: int = 7) -> Support:
        """Return a support of the teacher's top ids and one id more, ragged."""
        own = torch.arange(len(self.teacher))[:, None] % self.teacher.shape[1]
        groups = [(own, torch.ones_like(own, dtype=torch.bool)), top_ids(self.teacher, top_p, most)]
        ids, valid = merge_ids(groups, self.teacher.shape[1])
        return teacher_support(self.teacher, ids, valid)

    def run(
        self,
        support: Support,
        divergence: Divergence,
        dtype: torch.dtype = torch.float64,
        chunk: int = 5,
        tail: bool = True,
    ) -> dict[str, Tensor]:
        """Return loss, masses and all gradients of the stage's loss."""
        weight, bias = (x.to(dtype, copy=True).requires_grad_() for x in (self.weight, self.bias))
        head = Head(weight, bias, self.map)
        loss, hidden, told = sparse_loss(
            self.hidden.to(dtype),
            head,
            support,
            self.weights,
            Objective(divergence, tail=tail),
            chunk=chunk,
        )
        assert weight.grad is not None
        assert bias.grad is not None
        gradients = {"hidden": hidden, "weight": weight.grad, "bias": bias.grad}
        return {"loss": loss, "mass": told[:, 0]} | gradients

    def reference(
        self, support: Support, divergence: Divergence, tail: bool = True
    ) -> dict[str, Tensor]:
        """Return the same by autograd through whole logits in float64."""
        hidden, weight, bias = (
            x.clone().requires_grad_() for x in (self.hidden, self.weight, self.bias)
        )
        logits = (hidden @ weight.T + bias) * self.map.scale
        if self.map.cap is not None:
            logits = self.map.cap * torch.tanh(logits / self.map.cap)
        loss, mass = dense(logits, support, divergence, tail)
        (loss * self.weights).sum().backward()
        gradients = {"hidden": hidden.grad, "weight": weight.grad, "bias": bias.grad}
        return {"loss": loss.detach(), "mass": mass.detach()} | gradients


def dense(
    logits: Tensor, support: Support, divergence: Divergence, tail: bool = True
) -> tuple[Tensor, Tensor]:
    """Return loss and student mass by the definition over buckets, one token at a time."""
    losses, masses = [], []
    for row, log_probs in enumerate(logits.double().log_softmax(1)):
        kept = support.ids[row][support.valid[row]]
        outside = torch.ones(len(log_probs), dtype=torch.bool)
        outside[kept] = False
        log_p, log_q = log_probs[kept], support.logprobs[row][support.valid[row]].double()
        masses.append(log_p.exp().sum())
        if outside.any() and tail:
            log_p = torch.cat([log_p, log_probs[outside].logsumexp(0)[None]])
            log_q = torch.cat([log_q, support.tail[row].double()[None]])
        losses.append(divergence_of(log_p, log_q, divergence))
    return torch.stack(losses), torch.stack(masses)


def divergence_of(log_p: Tensor, log_q: Tensor, divergence: Divergence) -> Tensor:
    if divergence == "reverse_kl":
        return (log_p.exp() * (log_p - log_q)).sum()
    if divergence == "forward_kl":
        return (log_q.exp() * (log_q - log_p)).sum()
    if divergence == "jeffreys":
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() / 2


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(
            found[name].double(), value, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_over_the_whole_vocabulary_it_is_the_dense_divergence_in_value_and_gradient(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    case = Case()
    support = case.whole()
    assert (support.tail == -math.inf).all()
    expected = case.reference(support, divergence)
    assert expected["loss"].min() > 0.1
    assert_same(case.run(support, divergence, dtype), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("map", [LogitMap(0.125), LogitMap(cap=3.0), LogitMap(2.0, 5.0)], ids=str)
def test_logits_that_are_scaled_and_capped_have_their_own_gradient(
    map: LogitMap, divergence: Divergence, dtype: torch.dtype
) -> None:
    case = Case()
    case.map = map
    support = case.sparse()
    found = case.run(support, divergence, dtype)
    assert_same(found, case.reference(support, divergence), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_over_a_ragged_support_it_is_the_divergence_over_k_plus_1_buckets(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    case = Case()
    support = case.sparse()
    assert len(support.valid.sum(1).unique()) > 2
    expected = case.reference(support, divergence)
    assert_same(case.run(support, divergence, dtype), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_one_slot_is_enough(divergence: Divergence) -> None:
    case = Case()
    ids = torch.arange(23)[:, None]
    support = teacher_support(case.teacher, ids, torch.ones_like(ids, dtype=torch.bool))
    assert_same(case.run(support, divergence), case.reference(support, divergence), 1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_zero_with_zero_gradient_where_the_student_is_the_teacher(
    divergence: Divergence,
) -> None:
    case = Case()
    case.teacher = (case.hidden @ case.weight.T + case.bias).log_softmax(1)
    found = case.run(case.sparse(), divergence, torch.float32)
    for name in ("loss", "hidden", "weight", "bias"):
        assert found[name].abs().max() < 2e-6, name


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_bucketed_loss_bounds_the_dense_one_from_below(divergence: Divergence) -> None:
    case = Case()
    bucketed = case.run(case.sparse(), divergence)["loss"]
    assert (bucketed >= 0).all()
    assert (bucketed <= case.run(case.whole(), divergence)["loss"] + 1e-12).all()


EXTREME_LOGITS = torch.tensor(
    [
        [1e4, -1e4, 0.0, 5.0, -5.0, 1e4],
        [-1e4, 1e4, 1e4, 1e4, 1e4, 1e4],
        [9999.0, 1e4, 9998.0, 9990.0, -1e4, 0.0],
        [0.0, -200.0, -300.0, -250.0, -1e4, -210.0],  # the tail's mass underflows
        [-200.0, 0.0, 0.1, -0.1, -300.0, -200.0],  # the support's mass underflows
        [-1e4, -1e4, -1e4, -1e4, -1e4, -1e4],
    ]
)


def extreme_support(*, tail: float) -> Support:
    ids = torch.tensor([[0, 5], [0, 0]] * 3)
    valid = torch.tensor([[True, True], [True, False]] * 3)
    logprobs = torch.tensor([[-60000.0, -0.5], [-1e-3, -65504.0]] * 3)
    return Support(ids, valid, logprobs, torch.full((6,), tail))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_without_the_tail_it_is_the_truncated_sum_in_value_and_gradient(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    case = Case()
    expected = case.reference(case.sparse(), divergence, tail=False)
    assert_same(case.run(case.sparse(), divergence, dtype, tail=False), expected, TOLERANCE[dtype])
    whole = case.run(case.whole(), divergence, dtype, tail=False)
    assert_same(whole, case.reference(case.whole(), divergence), TOLERANCE[dtype])


@pytest.mark.parametrize("tail", [-0.3, -69.0, -60000.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extreme_logits_and_teacher_log_probs_give_the_reference(
    divergence: Divergence, tail: float
) -> None:
    support = extreme_support(tail=tail)
    logits = EXTREME_LOGITS.double().requires_grad_()
    expected, _ = dense(logits, support, divergence)
    expected.sum().backward()
    gradient = EXTREME_LOGITS.clone()
    loss, _, _ = bucket_loss_(gradient, support, Objective(divergence))
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    # relative to each row's own size: losses reach 60,000 nats and more
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    scale = logits.grad.abs().amax(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(
        gradient / scale, logits.grad / scale, rtol=0, atol=1e-5, check_dtype=False
    )


def test_a_teacher_tail_of_1e_30_is_a_bucket_like_any_other() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    teacher = torch.tensor([[0.0, -2.0, -70.0, -71.0]]).double().log_softmax(1)
    ids = torch.tensor([[0, 1]])
    support = teacher_support(teacher, ids, torch.ones_like(ids, dtype=torch.bool))
    assert 1e-31 < support.tail.exp().item() < 1e-29
    expected, _ = dense(logits, support, "reverse_kl")
    loss, _, _ = bucket_loss_(logits.clone(), support, Objective("reverse_kl"))
    assert expected.item() > 5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_logits_of_1e4_lose_no_digits_near_the_top() -> None:
    # float32 numbers near 1e4 are 1e-3 apart; differences between them are exact.
    logits = torch.tensor([[10000.0, 9999.0, 9998.5, 9997.0]])
    shifted = logits - 10000
    ids = torch.tensor([[0, 1]])
    support = Support(
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        torch.tensor([[-0.7, -1.2]]),
        torch.tensor([-1.6]),
    )
    for divergence in DIVERGENCES:
        a, b = logits.clone(), shifted.clone()
        loss_a, _, _ = bucket_loss_(a, support, Objective(divergence))
        loss_b, _, _ = bucket_loss_(b, support, Objective(divergence))
        assert loss_a.item() == loss_b.item()
        assert torch.equal(a, b)


@st.composite
def any_rows(draw: st.DrawFn, least: int = 1) -> tuple[Tensor, Support]:
    """Return float32 logits [C, V] and a support whose numbers are finite, but anything.

    least: ids of the vocabulary.
    """
    rows, vocabulary = draw(st.integers(1, 3)), draw(st.integers(least, 7))

    def numbers(low: float, high: float, count: int) -> list[float]:
        floats = st.floats(low, high, width=32, allow_nan=False)
        return draw(st.lists(floats, min_size=count, max_size=count))

    logits = torch.tensor(numbers(-1e4, 1e4, rows * vocabulary)).reshape(rows, vocabulary)
    id_sets = st.sets(st.integers(0, vocabulary - 1), min_size=1)
    sets = [sorted(draw(id_sets)) for _ in range(rows)]
    slots = max(map(len, sets)) + draw(st.integers(0, 2))
    ids = torch.tensor([s + [s[0]] * (slots - len(s)) for s in sets])
    valid = torch.tensor([[slot < len(s) for slot in range(slots)] for s in sets])
    logprobs = torch.tensor(numbers(-65504, 0, rows * slots)).reshape(rows, slots)
    tail = torch.tensor(numbers(-65504, 0, rows))
    return logits, Support(ids, valid, logprobs, tail)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(any_rows())
def test_finite_numbers_give_a_finite_loss_and_a_gradient_that_moves_no_total(
    divergence: Divergence, case: tuple[Tensor, Support]
) -> None:
    logits, support = case
    gradient = logits.clone()
    loss, tail, _ = bucket_loss_(gradient, support, Objective(divergence))
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert not tail.isnan().any()
    # Adding a constant to all logits changes no probability: a row's gradient adds up to 0.
    scale = gradient.abs().amax(1).clamp(min=1)
    assert (gradient.sum(1).abs() <= 1e-5 * scale).all()
    exact = logits.double().requires_grad_()
    expected, _ = dense(exact, support, divergence)
    expected.sum().backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        (gradient / scale[:, None]).double(), exact.grad / scale[:, None], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_ids_that_only_the_student_has_get_no_gradient_where_nothing_else_is_outside(
    divergence: Divergence,
) -> None:
    teacher = normal(4, 5, seed=0).log_softmax(1)
    ids = torch.arange(5).expand(4, -1)
    support = teacher_support(teacher, ids, torch.ones_like(ids, dtype=torch.bool))
    logits = normal(4, 8, seed=1)  # three rows of padding in the student's head
    exact = logits[:, :5].clone().requires_grad_()
    expected, _ = dense(exact, support, divergence)
    expected.sum().backward()
    loss, tail, _ = bucket_loss_(logits, support, Objective(divergence))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits[:, :5], exact.grad, rtol=1e-12, atol=1e-12)
    assert (logits[:, 5:] == 0).all()
    assert (tail == -math.inf).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_ids_that_only_the_teacher_has_are_no_bucket_of_a_student_without_a_tail(
    divergence: Divergence,
) -> None:
    teacher = normal(4, 8, seed=0).log_softmax(1)
    ids = torch.arange(5).expand(4, -1)
    support = teacher_support(teacher, ids, torch.ones_like(ids, dtype=torch.bool))
    assert (support.tail > -math.inf).all()
    logits = normal(4, 5, seed=1)
    exact = logits.clone().requires_grad_()
    expected, _ = dense(exact, support, divergence)
    expected.sum().backward()
    loss, _, _ = bucket_loss_(logits, support, Objective(divergence))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits, exact.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("piece_elements", [1, 200, 1 << 20])
@pytest.mark.parametrize("chunk", [1, 2, 22, 23, 1000])
def test_the_sizes_of_chunks_and_pieces_change_nothing_beyond_rounding(
    chunk: int, piece_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case()
    expected = case.run(case.sparse(), "reverse_kl", chunk=7)
    monkeypatch.setattr(chunks, "_CACHE_ELEMENTS", piece_elements)
    assert_same(case.run(case.sparse(), "reverse_kl", chunk=chunk), expected, 1e-14)


def test_gradients_are_linear_in_the_weights() -> None:
    case, tripled = Case(), Case()
    tripled.weights = 3 * case.weights
    one, three = (c.run(c.sparse(), "jsd") for c in (case, tripled))
    for name in ("hidden", "weight", "bias"):
        torch.testing.assert_close(three[name], 3 * one[name], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(three["loss"], one["loss"], rtol=0, atol=0)


def test_a_token_of_weight_zero_contributes_nothing() -> None:
    case, fewer = Case(), Case()
    case.weights[10:] = 0
    for name in ("hidden", "teacher", "weights"):
        setattr(fewer, name, getattr(fewer, name)[:10])
    found, expected = case.run(case.sparse(), "reverse_kl"), fewer.run(fewer.sparse(), "reverse_kl")
    assert (found["hidden"][10:] == 0).all()
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-13, atol=1e-15)


def test_head_gradients_are_added_to_those_already_there() -> None:
    case = Case()
    head = Head(case.weight.clone().requires_grad_(), case.bias.clone().requires_grad_())
    assert head.bias is not None
    runs = []
    for _ in range(2):
        sparse_loss(
            case.hidden, head, case.sparse(), case.weights, Objective("reverse_kl"), chunk=4
        )
        assert head.weight.grad is not None
        assert head.bias.grad is not None
        runs.append((head.weight.grad.clone(), head.bias.grad.clone()))
    for once, twice in zip(*runs, strict=True):
        torch.testing.assert_close(twice, 2 * once, rtol=1e-13, atol=1e-15)


def test_a_frozen_head_gets_no_gradient() -> None:
    case = Case()
    head = Head(case.weight, case.bias)
    expected = case.run(case.sparse(), "reverse_kl")["hidden"]
    _, hidden, _ = sparse_loss(
        case.hidden, head, case.sparse(), case.weights, Objective("reverse_kl"), chunk=5
    )
    assert head.weight.grad is None
    assert case.bias.grad is None
    torch.testing.assert_close(hidden, expected, rtol=0, atol=0)


def test_a_vocabulary_of_151_936_agrees_with_float64() -> None:
    rows, vocabulary, width = 3, 151_936, 4
    case = Case(rows, vocabulary, width)
    support = case.sparse(0.9, 20)
    for divergence in DIVERGENCES:
        found = case.run(support, divergence, torch.float32, chunk=2)
        # float32 sums of 151,936 terms, most of which cancel: 5e-5 of the largest entry was seen
        assert_same(found, case.reference(support, divergence), 2e-4)


def test_chunk_rows_holds_the_number_of_logits_below_the_limit() -> None:
    assert chunk_rows(1 << 22, 151_936) == 27
    assert chunk_rows(10, 151_936) == 1


def test_the_head_multiplies_half_precision_in_float32() -> None:
    hidden, weight = normal(5, 64, seed=0).bfloat16(), normal(30, 64, seed=1).bfloat16()
    bias = normal(30, seed=2).bfloat16()
    logits = Head(weight, bias).logits(hidden)
    assert logits.dtype == torch.float32
    exact = hidden.double() @ weight.double().T + bias.double()
    # a bfloat16 product of 64 terms would be wrong at 2^-8 of its size
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_support_can_be_cut_into_rows() -> None:
    support = Case().sparse()
    part = support.rows(3, 9)
    whole = replace(
        support, **{n: getattr(support, n)[3:9] for n in ("ids", "valid", "logprobs", "tail")}
    )
    assert all(torch.equal(getattr(part, n), getattr(whole, n)) for n in ("ids", "valid", "tail"))
