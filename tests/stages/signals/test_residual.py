"""In the mean over all tokens that can be sampled, the residual makes a sparse loss the dense one.

Nothing is sampled here: each of the V tokens is taken once and weighted by its probability. The
dense divergence over the whole vocabulary, in float64 by autograd, is the reference.
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
from tip.stages.models.head import Head
from tip.stages.settings import Divergence
from tip.stages.signals.loss import bucket_loss_, sparse_loss
from tip.stages.signals.objective import Objective
from tip.stages.signals.residual import TOLD, Residual
from tip.stages.signals.support import Support, merge_ids, teacher_support
from torch import Tensor

from .test_loss import any_rows

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
VOCABULARY = 9
# Sizes of the support's own part, from none at all to all ids but one, and all.
RAGGED = (0, 1, 3, 5, 8, 9)


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), "sparse_loss", "bucket_loss_"):
        yield


def normal(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


def divergence_of(log_p: Tensor, log_q: Tensor, divergence: Divergence) -> Tensor:
    """Return the divergence of each row by its definition, [C]."""
    p, q = log_p.exp(), log_q.exp()
    if divergence == "reverse_kl":
        return (p * (log_p - log_q)).sum(1)
    if divergence == "forward_kl":
        return (q * (log_q - log_p)).sum(1)
    if divergence == "jeffreys":
        return ((p - q) * (log_p - log_q)).sum(1)
    log_m = ((p + q) / 2).log()
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum(1) / 2


class Enumerated:
    """One row a size of the support; every row is repeated for each token that it can sample.

    own: [C, V] whether an id is in the support whatever is sampled.
    """

    def __init__(self, sizes: tuple[int, ...] = RAGGED, seed: int = 0, spread: float = 1.5):
        self.logits = normal(len(sizes), VOCABULARY, seed=seed, spread=spread)
        self.teacher = normal(len(sizes), VOCABULARY, seed=seed + 1, spread=2).log_softmax(1)
        order = normal(len(sizes), VOCABULARY, seed=seed + 2).argsort(1).argsort(1)
        self.own = order < torch.tensor(sizes)[:, None]

    @property
    def log_p(self) -> Tensor:
        return self.logits.log_softmax(1)

    def support(self) -> Support:
        """Return what is stored for each row and each sampled token, [C x V]."""
        count = len(self.logits)
        tokens = torch.arange(VOCABULARY).repeat(count)[:, None]
        every = torch.arange(VOCABULARY).expand(count * VOCABULARY, -1)
        groups = [(tokens, torch.ones_like(tokens, dtype=torch.bool))]
        groups.append((every, self.own.repeat_interleave(VOCABULARY, 0)))
        ids, valid = merge_ids(groups, VOCABULARY)
        return teacher_support(self.teacher.repeat_interleave(VOCABULARY, 0), ids, valid)

    def residual(self, drawn: Tensor | None = None, cap: float = 2.0) -> Residual:
        """Return each row's tokens, drawn from log-probs [C, V] (its own)."""
        tokens = torch.arange(VOCABULARY).repeat(len(self.logits))
        logprobs = (self.log_p if drawn is None else drawn).flatten()
        return Residual(tokens, logprobs, ~self.own.flatten(), cap)

    def every(self, divergence: Divergence, residual: Residual | None, **terms: object) -> tuple:
        """Return loss [C, V] and gradient [C, V, V] of each row and each sampled token."""
        gradient = self.logits.repeat_interleave(VOCABULARY, 0)
        objective = Objective(divergence, residual=residual, **terms)  # type: ignore[arg-type]
        row = bucket_loss_(gradient, self.support(), objective)
        shape = (len(self.logits), VOCABULARY)
        return row.nats.view(shape), gradient.view(*shape, VOCABULARY), row

    def mean(
        self, divergence: Divergence, drawn: Tensor | None = None, cap: float = 2.0
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss [C] and gradient [C, V] over what a row can sample."""
        log_mu = self.log_p if drawn is None else drawn
        loss, gradient, _ = self.every(divergence, self.residual(drawn, cap))
        return (log_mu.exp() * loss).sum(1), (log_mu.exp()[:, :, None] * gradient).sum(1)

    def dense(self, divergence: Divergence) -> tuple[Tensor, Tensor]:
        """Return loss [C] and gradient [C, V] over the whole vocabulary."""
        logits = self.logits.clone().requires_grad_()
        loss = divergence_of(logits.log_softmax(1), self.teacher, divergence)
        loss.sum().backward()
        assert logits.grad is not None
        return loss.detach(), logits.grad


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_value_and_gradient_are_the_dense_ones_in_the_mean_over_what_is_sampled(
    divergence: Divergence,
) -> None:
    case = Enumerated()
    same(case.mean(divergence), case.dense(divergence), 1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_without_the_residual_they_are_not(divergence: Divergence) -> None:
    case = Enumerated((0, 1, 3, 5))
    loss, gradient, _ = case.every(divergence, None)
    p = case.log_p.exp()
    dense = case.dense(divergence)
    assert ((p * loss).sum(1) < dense[0] - 1e-3).all()
    assert ((p[:, :, None] * gradient).sum(1) - dense[1]).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_in_float32_the_mean_is_the_dense_one_up_to_rounding(divergence: Divergence) -> None:
    case = Enumerated()
    expected = case.dense(divergence)
    case.logits = case.logits.float()
    same(case.mean(divergence), expected, 1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_token_inside_the_support_has_no_residual(divergence: Divergence) -> None:
    case = Enumerated((3, 5, 8, 9))
    plain, there, _ = case.every(divergence, None)
    loss, gradient, row = case.every(divergence, case.residual())
    assert torch.equal(loss[case.own], plain[case.own])
    assert torch.equal(gradient[case.own], there[case.own])
    assert row.told is not None
    assert (row.told[case.own.flatten()] == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_bucket_of_one_id_leaves_nothing_out(divergence: Divergence) -> None:
    case = Enumerated((8, 8, 8))
    loss, gradient, _ = case.every(divergence, case.residual())
    dense = case.dense(divergence)
    for token in range(VOCABULARY):
        same((loss[:, token], gradient[:, token]), dense, 1e-12)


def test_without_a_support_it_is_the_score_of_the_sampled_token_alone() -> None:
    case = Enumerated((0, 0))
    _, gradient, row = case.every("reverse_kl", case.residual())
    r = case.log_p - case.teacher
    score = torch.eye(VOCABULARY) - case.log_p.exp()[:, None, :]
    torch.testing.assert_close(gradient, r[:, :, None] * score, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(row.tail, torch.zeros_like(row.tail), rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_ratio_of_one_is_the_plain_estimator_whatever_the_cap(divergence: Divergence) -> None:
    case = Enumerated()
    expected = case.every(divergence, case.residual(cap=1.001))
    found = case.every(divergence, case.residual(cap=50.0))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert (found[2].told[:, TOLD.index("clipped")] == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tokens_of_another_distribution_are_weighed_by_the_ratio(divergence: Divergence) -> None:
    case = Enumerated()
    drawn = (case.logits / 0.7 + normal(*case.logits.shape, seed=9, spread=0.3)).log_softmax(1)
    same(case.mean(divergence, drawn, cap=1e9), case.dense(divergence), 1e-11)
    # and without the ratio they would give something else
    loss, _, _ = case.every(divergence, case.residual())
    assert ((drawn.exp() * loss).sum(1) - case.dense(divergence)[0])[:4].abs().min() > 1e-3


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_ratio_above_the_cap_counts_as_the_cap_and_is_told(divergence: Divergence) -> None:
    case, cap = Enumerated((1, 3, 5)), 2.0
    drawn = case.log_p - math.log(3)
    _, buckets, _ = case.every(divergence, case.residual(drawn=case.log_p + 200))  # a ratio of 0
    _, whole, plain = case.every(divergence, case.residual())
    _, gradient, row = case.every(divergence, case.residual(drawn, cap))
    torch.testing.assert_close(gradient - buckets, cap * (whole - buckets), rtol=1e-12, atol=1e-12)
    told = dict(zip(TOLD, row.told.T, strict=True))
    once = dict(zip(TOLD, plain.told.T, strict=True))
    outside = ~case.own.flatten()
    assert torch.equal(told["outside"] == 1, outside)
    assert torch.equal(told["clipped"] == 1, outside)
    torch.testing.assert_close(told["nats"], cap * once["nats"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(told["size"], cap * once["size"], rtol=1e-12, atol=1e-12)
    # of a ratio of 3, one is cut off
    torch.testing.assert_close(told["clipped_off"], once["size"], rtol=1e-12, atol=1e-12)


def test_what_it_adds_to_the_loss_is_told() -> None:
    case = Enumerated()
    _, _, row = case.every("jsd", case.residual())
    p = case.log_p.exp()
    told = row.told[:, TOLD.index("nats")].view(p.shape)
    buckets = row.nats.view(p.shape) - told
    assert (buckets >= -1e-15).all()
    torch.testing.assert_close(
        (p * told).sum(1), case.dense("jsd")[0] - (p * buckets).sum(1), rtol=0, atol=1e-12
    )


def test_the_mass_of_the_tail_is_that_of_the_support_without_the_sampled_token() -> None:
    case = Enumerated()
    _, _, row = case.every("reverse_kl", case.residual())
    mass = (case.log_p.exp() * ~case.own).sum(1).repeat_interleave(VOCABULARY)
    torch.testing.assert_close(row.tail.exp(), mass, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_ids_of_the_students_padding_get_nothing_where_nothing_else_is_outside(
    divergence: Divergence,
) -> None:
    case = Enumerated((8, 9))
    wide = torch.cat([case.logits, normal(2, 4, seed=5)], 1).repeat_interleave(VOCABULARY, 0)
    bucket_loss_(wide, case.support(), Objective(divergence, residual=case.residual()))
    _, expected, _ = case.every(divergence, case.residual())
    whole = case.support().tail == -math.inf
    assert (~case.own.flatten())[whole].any(), "else no token is put back into an empty tail"
    assert (wide[whole, VOCABULARY:] == 0).all()
    torch.testing.assert_close(
        wide[whole, :VOCABULARY], expected.flatten(0, 1)[whole], rtol=1e-12, atol=1e-12
    )


@st.composite
def sampled_rows(draw: st.DrawFn) -> tuple[Tensor, Support, Residual]:
    """Return logits [C, V] and a support of any finite numbers, and sampled tokens of it."""
    logits, support = draw(any_rows(least=2))
    rows = range(len(logits))
    tokens = [draw(st.sampled_from(support.ids[r][support.valid[r]].tolist())) for r in rows]
    outside = [draw(st.booleans()) for _ in rows]
    drawn = [draw(st.floats(-60, 0, width=32)) for _ in rows]
    made = Residual(torch.tensor(tokens), torch.tensor(drawn), torch.tensor(outside), 2.0)
    return logits, support, made


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(sampled_rows())
def test_finite_numbers_give_finite_ones_and_a_gradient_that_moves_no_total(
    divergence: Divergence, case: tuple[Tensor, Support, Residual]
) -> None:
    logits, support, residual = case
    gradient = logits.clone()
    row = bucket_loss_(gradient, support, Objective(divergence, residual=residual))
    assert row.nats.isfinite().all()
    assert gradient.isfinite().all()
    assert row.told is not None
    assert row.told.isfinite().all()
    scale = gradient.abs().amax(1).clamp(min=1)
    assert (gradient.sum(1).abs() <= 1e-5 * scale).all()


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_the_stage_gives_the_same_a_chunk_at_a_time(chunk: int) -> None:
    case = Enumerated((1, 3, 5))
    weight, hidden = normal(VOCABULARY, 4, seed=3), normal(3, 4, seed=4)
    case.logits = hidden @ weight.T
    rows, weights = hidden.repeat_interleave(VOCABULARY, 0), case.log_p.exp().flatten()
    head = Head(weight.clone().requires_grad_(), None)
    objective = Objective("reverse_kl", residual=case.residual())
    loss, back, told = sparse_loss(rows, head, case.support(), weights, objective, chunk=chunk)
    dense, by_logits = case.dense("reverse_kl")
    assert head.weight.grad is not None
    torch.testing.assert_close((loss * weights).view(3, -1).sum(1), dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(head.weight.grad, by_logits.T @ hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        back.view(3, VOCABULARY, -1).sum(1), by_logits @ weight, rtol=0, atol=1e-12
    )
    assert told.shape == (27, 1 + len(TOLD))
    outside = told[:, 1 + TOLD.index("outside")]
    assert torch.equal(outside == 1, ~case.own.flatten())


def test_sampled_tokens_can_be_cut_into_rows() -> None:
    whole = Enumerated().residual(cap=3.0)
    part = whole.rows(3, 9)
    expected = replace(
        whole, **{n: getattr(whole, n)[3:9] for n in ("tokens", "logprobs", "outside")}
    )
    assert torch.equal(part.tokens, expected.tokens)
    assert torch.equal(part.logprobs, expected.logprobs)
    assert torch.equal(part.outside, expected.outside)
    assert part.cap == 3.0
