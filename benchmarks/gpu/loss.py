"""Head and loss, fused and plain, against what three products in bfloat16 take.

Random states and head in float32, supports of 88 ids a token, reverse KL with the bucket and with a
residual, for which half of the tokens were sampled outside the support. Memory is the rise above
states, head and supports, less both gradients [N, D] and [V, D]; the fused loss's copy of the head
in bfloat16 is part of it. Both gradients are held against dense ones in float64, by autograd over
all ids of fewer tokens.
"""

from collections.abc import Iterator
from functools import partial

import torch
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.models.head import Head, LogitMap
from tip.stages.signals.fused import fused_loss, lack
from tip.stages.signals.loss import sparse_loss
from tip.stages.signals.objective import Objective
from tip.stages.signals.residual import Residual
from tip.stages.signals.support import Support
from tip.stages.train.settings import TrainSettings
from torch import Tensor

from .measure import MB, Row, Setting, products, rise_mb, row, timed
from .qwen3 import half, vocabulary

SLOTS, WIDTH = 88, 2048
WANTED = {"wanted": "<= 1.6", "most_mb": 400}
BEFORE = {
    8_192: "181 ms, 9.4 x; + 74 MB",
    65_536: "1.48 s, 9.6 x; + 138 MB",
    0: "8.6e-4",
}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield both ways of the loss of few and of many tokens, their gradients, their kernels."""
    torch.set_float32_matmul_precision("high")  # as a step's head multiplies its float32 numbers
    for name, usual, small in (("few", 8_192, 16), ("many", 65_536, 32)):
        case = Case(setting.pick(usual, small), setting)
        yield from case.rows(name, BEFORE[usual])
    few = Case(setting.pick(256, 16), setting)
    yield from few.gradients()
    if lack(setting.device, half(setting)) is None:
        yield from few.kernels()


class Case:
    """Some selected tokens, with states, head, supports and the gradients that are added to."""

    def __init__(self, tokens: int, setting: Setting) -> None:
        device, width, ids = setting.device, setting.pick(WIDTH, 32), vocabulary(setting)
        random = torch.Generator(device).manual_seed(0)
        make = partial(torch.randn, generator=random, device=device)
        self.setting, self.states = setting, make(tokens, width)
        self.weight = make(ids, width).mul_(3 / width**0.5).requires_grad_()
        self.weight.grad = torch.zeros_like(self.weight)
        step = ids // SLOTS
        places = torch.randint(step, (tokens, SLOTS), generator=random, device=device)
        places += torch.arange(SLOTS, device=device) * step
        logs = make(tokens, SLOTS + 1).log_softmax(1)
        there = torch.ones_like(places, dtype=torch.bool)
        self.support = Support(places, there, logs[:, 1:].contiguous(), logs[:, 0].contiguous())
        self.weights = torch.full((tokens,), 1 / tokens, dtype=torch.float64, device=device)
        outside = torch.arange(tokens, device=device) % 2 == 0
        self.residual = Residual(places[:, 0], logs[:, 1], outside, TrainSettings().residual_cap)

    def loss(self, fused: bool, residual: bool = False) -> Tensor:
        """Return the gradient of the states, as a training step takes it; that of the head adds."""
        how = partial(fused_loss, dtype=half(self.setting)) if fused else sparse_loss
        given = self.states, Head(self.weight), self.support, self.weights
        elements = TrainSettings().chunk(fused=fused)
        chunk = chunk_rows(elements, len(self.weight))
        objective = Objective("reverse_kl", residual=self.residual if residual else None)
        return how(*given, objective, chunk=chunk)[1]

    def rows(self, name: str, before: str) -> Iterator[Row]:
        """Yield the seconds and the memory of both ways."""
        tokens, width = self.states.shape
        multiply = products(tokens, width, len(self.weight), self.setting.device)
        reason = lack(self.setting.device, half(self.setting))
        works = {"products": multiply} | {
            kind + tail: partial(self.loss, kind == "fused", bool(tail))
            for kind in ("plain", *(("fused",) if reason is None else ()))
            for tail in ("", ", residual")
        }
        found = timed(works, self.setting)
        floor, at = found["products"].median, f"{tokens:,} tokens, V = {len(self.weight):,}"
        del works["products"], multiply  # what they multiply takes memory
        for kind in ("fused", "fused, residual", "plain", "plain, residual"):
            work, wanted = f"head + loss of {name} tokens, {kind}", kind.startswith("fused")
            if kind not in works:
                yield Row(work, at=at, note=f"left out: {reason}", **WANTED)
                continue
            yield row(
                work,
                found[kind],
                f"three products in bfloat16, {floor:.3g} s",
                floor,
                at=at,
                rise_mb=rise_mb(works[kind], self.setting) - self.states.nbytes / MB,
                note="MB beyond states, head and both gradients",
                before=before if kind == "plain" else "",
                **(WANTED if wanted else {}),
            )

    def gradients(self) -> Iterator[Row]:
        """Yield how far both gradients are from dense ones in float64."""
        expected = self.dense()
        for fused in (True, False):
            work = f"gradient of head + loss, {'fused' if fused else 'plain'}"
            at = f"{len(self.states)} tokens, V = {len(self.weight):,}"
            if fused and (reason := lack(self.setting.device, half(self.setting))) is not None:
                yield Row(work, at=at, note=f"left out: {reason}")
                continue
            assert self.weight.grad is not None  # zeros at first
            self.weight.grad.zero_()
            found = self.loss(fused), self.weight.grad
            error = max(
                float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)
            )
            yield Row(
                work,
                at=at,
                value=error,
                low=error,
                high=error,
                unit="off",
                baseline="the norm of the dense gradient in float64",
                ratio=error,
                wanted="<= 0.01",
                before="" if fused else BEFORE[0],
            )

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of states and head over all ids, float64, by autograd."""
        states = self.states.double().requires_grad_()
        weight = self.weight.detach().double().requires_grad_()
        log_p, support = (states @ weight.T).log_softmax(1), self.support
        kept = log_p.gather(1, support.ids)
        tail = log_p.scatter(1, support.ids, -torch.inf).logsumexp(1, keepdim=True)
        log_p = torch.cat([kept, tail], 1)
        log_q = torch.cat([support.logprobs, support.tail[:, None]], 1).double()
        ((log_p.exp() * (log_p - log_q)).sum(1) * self.weights).sum().backward()
        assert states.grad is not None
        assert weight.grad is not None
        return states.grad, weight.grad

    def kernels(self) -> Iterator[Row]:
        """Yield the bytes a second that the kernels over all ids move, beside a copy's."""
        from tip.stages.signals import kernels

        plain, support = LogitMap(), self.support
        logits = self.states @ self.weight.detach().T
        picked, halves = logits.gather(1, support.ids), torch.empty_like(logits).bfloat16()
        shift, total = kernels.fold(logits, plain)
        *_, share, _ = kernels.reverse_kl(picked, support, shift, total, self.weights)
        beside = torch.empty_like(logits)
        found = timed(
            {
                "copy": lambda: beside.copy_(logits),
                "fold": lambda: kernels.fold(logits, plain),
                "spread": lambda: kernels.spread(logits, shift, share, plain, halves),
            },
            self.setting,
        )
        copied = found["copy"].rate(8 * logits.numel() / 1e12).median
        for name, each in (("fold", 4), ("spread", 6)):
            yield row(
                f"kernel {name}",
                found[name].rate(each * logits.numel() / 1e12),
                f"a copy of the same logits, {copied:.3g} TB/s",
                copied,
                at=f"{len(logits)} tokens",
                unit="TB/s",
            )
