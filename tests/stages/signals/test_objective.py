"""What is minimised at each token is what its word says, in value and gradient, alone and mixed.

The reference folds whole distributions token by token and takes gradients by autograd, in float64;
residual terms come from the divergence of a single id, d(r), and c = d + d' by autograd, too.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch
from devices import computed_on
from hypothesis import given
from tip.stages.models.head import Head
from tip.stages.settings import TOKEN_LOSSES, Divergence, TokenLoss
from tip.stages.signals.loss import bucket_loss_, sparse_loss
from tip.stages.signals.objective import OF_CLIP, Mixed, Objective
from tip.stages.signals.residual import TOLD, Residual
from tip.stages.signals.support import Support, merge_ids, teacher_support
from torch import Tensor

from .test_residual import Enumerated, sampled_rows

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
TOKENS, IDS, CLIP, BETA = 60, 30, 0.7, 0.2


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), "sparse_loss", "bucket_loss_"):
        yield


def normal(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


def divergence_of(log_p: Tensor, log_q: Tensor, word: str, beta: float = 0.5) -> Tensor:
    """Return the sum of a divergence's terms over ids or buckets."""
    p, q = log_p.exp(), log_q.exp()
    reverse, forward = p * (log_p - log_q), q * (log_q - log_p)
    if word == "jsd":
        log_m = (beta * q + (1 - beta) * p).log()
        return (beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)).sum()
    return {"reverse_kl": reverse, "forward_kl": forward, "jeffreys": reverse + forward}[word].sum()


def slope_and_value(r: float, word: str, beta: float) -> tuple[float, float]:
    """Return c(r) and d(r): d is what one id of student probability 1 adds, c = d + d'."""
    at = torch.tensor(r, dtype=torch.float64, requires_grad=True)
    d = divergence_of(torch.zeros(1, dtype=torch.float64), -at[None], word, beta)
    (slope,) = torch.autograd.grad(d, at)
    return (d + slope).item(), d.item()


class Case:
    """Tokens of every loss in turn, with hidden states, a head, a teacher and what was sampled."""

    def __init__(self) -> None:
        self.hidden, self.weight = normal(TOKENS, 5, seed=0), normal(IDS, 5, seed=1)
        self.teacher = normal(TOKENS, IDS, seed=2, spread=2).log_softmax(1)
        self.weights = normal(TOKENS, seed=3).abs()
        self.which = torch.arange(TOKENS) % len(TOKEN_LOSSES)
        self.tokens = torch.randint(0, IDS, (TOKENS,), generator=torch.Generator().manual_seed(4))
        own = normal(TOKENS, IDS, seed=5).argsort(1)[:, :4]
        self.outside = ~(own == self.tokens[:, None]).any(1)
        groups = [(self.tokens[:, None], torch.ones(TOKENS, 1).bool()), (own, own >= 0)]
        ids, valid = merge_ids(groups, IDS)
        self.support = teacher_support(self.teacher, ids, valid)
        log_p = (self.hidden @ self.weight.T).log_softmax(1)
        self.log_mu = log_p.gather(1, self.tokens[:, None]).squeeze(1) + normal(TOKENS, seed=6)

    def objective(self, *, residual: bool, clip: float | None) -> Objective:
        drawn = Residual(self.tokens, self.log_mu, self.outside, 1.5) if residual else None
        return Objective(
            Mixed(TOKEN_LOSSES, self.which),
            beta=BETA,
            clip_token=clip,
            tokens=self.tokens,
            residual=drawn,
        )

    def run(self, objective: Objective, chunk: int = 7) -> dict[str, Tensor]:
        head = Head(self.weight.clone().requires_grad_(), None)
        nats, hidden, told = sparse_loss(
            self.hidden, head, self.support, self.weights, objective, chunk=chunk
        )
        assert head.weight.grad is not None
        return {"nats": nats, "hidden": hidden, "weight": head.weight.grad, "told": told}

    def reference(self, *, residual: bool, clip: float | None) -> dict[str, Tensor]:
        """Return values by definition, and gradients of a loss whose factors are held fixed."""
        hidden, weight = self.hidden.clone().requires_grad_(), self.weight.clone().requires_grad_()
        nats, loss = [], torch.zeros((), dtype=torch.float64)
        for row, log_p in enumerate((hidden @ weight.T).log_softmax(1)):
            value, part = self._token(row, log_p, residual=residual, clip=clip)
            nats.append(value)
            loss = loss + self.weights[row] * part
        loss.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return {
            "nats": torch.tensor(nats, dtype=torch.float64),
            "hidden": hidden.grad,
            "weight": weight.grad,
        }

    def _token(
        self, row: int, log_p: Tensor, *, residual: bool, clip: float | None
    ) -> tuple[float, Tensor]:
        """Return a token's value, and what has its gradient."""
        word, y = TOKEN_LOSSES[int(self.which[row])], int(self.tokens[row])
        if word == "none":
            return 0.0, 0 * log_p.sum()
        if word == "suppress":
            return log_p[y].item(), log_p[y]
        out = residual and bool(self.outside[row])
        kept = [i for i in self.support.ids[row][self.support.valid[row]].tolist()]
        kept = [i for i in kept if not (out and i == y)]
        rest = [i for i in range(IDS) if i not in kept]
        log_q = self.teacher[row]
        p_b, q_b = (x[rest].logsumexp(0) for x in (log_p, log_q))
        bucketed = divergence_of(
            torch.cat([log_p[kept], p_b[None]]), torch.cat([log_q[kept], q_b[None]]), word, BETA
        )
        factor = 1.0 if clip is None else min(1.0, clip / bucketed.item())
        if not out:
            return factor * bucketed.item(), factor * bucketed
        ratio = min(1.5, math.exp(log_p[y].item() - self.log_mu[row].item()))
        r = [(log_p[y] - log_q[y]).item(), (p_b - q_b).item()]
        (c_y, d_y), (c_b, d_b) = (slope_and_value(each, word, BETA) for each in r)
        value = bucketed.item() + ratio * (d_y - d_b)
        return factor * value, factor * (bucketed + ratio * (c_y - c_b) * log_p[y])


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("residual", [False, True])
def test_tokens_of_all_losses_side_by_side_have_each_their_own_value_and_gradient(
    residual: bool, clip: float | None
) -> None:
    case = Case()
    expected = case.reference(residual=residual, clip=clip)
    for chunk in (7, 1000):
        found = case.run(case.objective(residual=residual, clip=clip), chunk)
        for name, value in expected.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12 * scale, msg=name)


def test_mixed_rows_are_to_the_bit_what_each_is_where_all_have_its_loss() -> None:
    case = Case()
    for residual in (False, True):
        mixed = case.objective(residual=residual, clip=CLIP)
        found = case.run(mixed)
        for place, word in enumerate(TOKEN_LOSSES):
            alone = case.run(replace(mixed, loss=word))
            mine = case.which == place
            for name in ("nats", "hidden", "told"):
                assert torch.equal(found[name][mine], alone[name][mine]), (word, name)


def rows(case: Case, loss: TokenLoss, **changes: object) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, gradient by logits and what is told of the case's tokens."""
    gradient = case.hidden @ case.weight.T
    objective = Objective(loss, tokens=case.tokens, **changes)  # type: ignore[arg-type]
    found = bucket_loss_(gradient, case.support, objective)
    return found.nats, gradient, found.told


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_above_the_limit_a_token_counts_as_the_limit_and_keeps_its_direction(
    loss: Divergence,
) -> None:
    case = Case()
    plain, direction, _ = rows(case, loss)
    clip = float(plain.median())
    nats, gradient, told = rows(case, loss, clip_token=clip)
    over = plain > clip
    assert 10 < over.sum() < 50
    torch.testing.assert_close(nats[over], torch.full_like(nats[over], clip), rtol=1e-12, atol=0)
    factor = (clip / plain)[over, None]
    torch.testing.assert_close(gradient[over], factor * direction[over], rtol=1e-12, atol=1e-15)
    assert gradient[over].norm(dim=1).min() > 0, "a clamp would leave none"
    assert torch.equal(nats[~over], plain[~over])
    assert torch.equal(gradient[~over], direction[~over])
    numbers = dict(zip(OF_CLIP, told.T, strict=True))
    assert torch.equal(numbers["over"] == 1, over)
    torch.testing.assert_close(nats + numbers["cut"], plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_limit_that_nothing_reaches_changes_no_bit(loss: Divergence, tail: bool) -> None:
    case = Case()
    for one, other in zip(
        rows(case, loss, tail=tail)[:2],
        rows(case, loss, tail=tail, clip_token=1e3)[:2],
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_a_residual_the_mean_is_the_dense_loss_times_a_factor_that_no_sample_moves(
    divergence: Divergence,
) -> None:
    case, clip = Enumerated(), 0.1
    loss, gradient, row = case.every(divergence, case.residual(), clip_token=clip)
    buckets, _, plain = case.every(divergence, case.residual())
    bucketed = (plain.nats - plain.told[:, TOLD.index("nats")]).view(buckets.shape)
    torch.testing.assert_close(bucketed, bucketed[:, :1].expand_as(bucketed), rtol=1e-9, atol=1e-12)
    factor = torch.where(bucketed[:, 0] > clip, clip / bucketed[:, 0], 1)
    assert 1 < (factor < 0.9).sum() < len(factor)
    p, dense = case.log_p.exp(), case.dense(divergence)
    torch.testing.assert_close((p * loss).sum(1), factor * dense[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        (p[:, :, None] * gradient).sum(1), factor[:, None] * dense[1], rtol=0, atol=1e-12
    )
    numbers = dict(zip((*TOLD, *OF_CLIP), row.told.T, strict=True))
    torch.testing.assert_close(row.nats + numbers["cut"], plain.nats, rtol=1e-12, atol=1e-12)
    scaled = factor.repeat_interleave(p.shape[1])
    for name in ("nats", "size", "clipped_off"):
        expected = scaled * plain.told[:, TOLD.index(name)]
        torch.testing.assert_close(numbers[name], expected, rtol=1e-9, atol=1e-12)


def whole(count: int = 6, ids: int = 8) -> tuple[Tensor, Support, Tensor]:
    """Return logits, a support of all ids, and the teacher."""
    teacher = normal(count, ids, seed=1, spread=2).log_softmax(1)
    every = torch.arange(ids).expand(count, -1)
    return normal(count, ids, seed=0), teacher_support(teacher, every, every >= 0), teacher


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.5, 0.9, 1 - 1e-3])
def test_the_jsd_of_a_beta_is_its_definition_in_value_and_gradient(beta: float) -> None:
    logits, support, teacher = whole()
    exact = logits.clone().requires_grad_()
    expected = torch.stack(
        [
            divergence_of(p, q, "jsd", beta)
            for p, q in zip(exact.log_softmax(1), teacher, strict=True)
        ]
    )
    expected.sum().backward()
    found = bucket_loss_(logits, support, Objective("jsd", beta=beta))
    assert (found.nats > 0).all()
    torch.testing.assert_close(found.nats, expected.detach(), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(logits, exact.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("beta", "limit"), [(1e-8, "forward_kl"), (1 - 1e-8, "reverse_kl")])
def test_the_jsd_becomes_forward_kl_near_0_and_reverse_kl_near_1(
    beta: float, limit: Divergence
) -> None:
    near = min(beta, 1 - beta)
    logits, support, _ = whole()
    gradient, expected = logits.clone(), logits.clone()
    found = bucket_loss_(gradient, support, Objective("jsd", beta=beta))
    kl = bucket_loss_(expected, support, Objective(limit))
    torch.testing.assert_close(found.nats / near, kl.nats, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient / near, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.8])
def test_the_residual_of_a_beta_makes_the_mean_the_dense_one(beta: float) -> None:
    case = Enumerated()
    loss, gradient, _ = case.every("jsd", case.residual(), beta=beta)
    exact, p = case.logits.clone().requires_grad_(), case.log_p.exp()
    dense = torch.stack(
        [
            divergence_of(a, b, "jsd", beta)
            for a, b in zip(exact.log_softmax(1), case.teacher, strict=True)
        ]
    )
    dense.sum().backward()
    torch.testing.assert_close((p * loss).sum(1), dense.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close((p[:, :, None] * gradient).sum(1), exact.grad, rtol=0, atol=1e-12)


def test_suppress_lowers_the_sampled_token_and_asks_no_teacher() -> None:
    case = Case()
    nats, gradient, _ = rows(case, "suppress")
    log_p = (case.hidden @ case.weight.T).log_softmax(1)
    chosen = torch.nn.functional.one_hot(case.tokens, IDS)
    torch.testing.assert_close(nats, (log_p * chosen).sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, chosen - log_p.exp(), rtol=1e-12, atol=1e-12)
    support = case.support
    other = replace(support, logprobs=support.logprobs - 5, tail=support.tail / 3)
    case.support = other
    again = rows(case, "suppress", tail=False, beta=0.1)
    assert torch.equal(again[0], nats)
    assert torch.equal(again[1], gradient)


def test_suppress_does_not_let_go_of_a_token_that_the_student_has_left() -> None:
    logits = torch.tensor([[0.0, 0.0, -500.0, 1.0]]).double()
    ids = torch.tensor([[2]])
    support = Support(ids, ids > 0, torch.tensor([[-1.0]]), torch.tensor([-0.5]))
    found = bucket_loss_(logits, support, Objective("suppress", tokens=torch.tensor([2])))
    assert found.nats.item() < -500
    assert logits[0, 2].item() == pytest.approx(1)
    assert logits.sum().item() == pytest.approx(0, abs=1e-12)


def test_suppress_without_what_was_sampled_is_refused() -> None:
    logits, support, _ = whole()
    with pytest.raises(ValueError, match="sampled tokens"):
        bucket_loss_(logits, support, Objective("suppress"))


@pytest.mark.parametrize("words", [TOKEN_LOSSES, ("suppress", "none"), ("none", "jeffreys")])
@given(sampled_rows())
def test_finite_numbers_give_finite_ones_and_a_gradient_that_moves_no_total(
    words: tuple[TokenLoss, ...], case: tuple[Tensor, Support, Residual]
) -> None:
    logits, support, residual = case
    gradient = logits.clone()
    which = torch.arange(len(logits)) % len(words)
    objective = Objective(
        Mixed(words, which),
        clip_token=2.0,
        beta=0.01,
        tokens=residual.tokens,
        residual=residual,
    )
    row = bucket_loss_(gradient, support, objective)
    for numbers in (row.nats, gradient, row.told):
        assert numbers.isfinite().all()
    scale = gradient.abs().amax(1).clamp(min=1)
    assert (gradient.sum(1).abs() <= 1e-5 * scale).all()
