"""The LM head: from hidden states to logits, a chunk at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arrays.chunks import pieces


@dataclass(frozen=True)
class LogitMap:
    """What a family makes of the head's products z: logits = cap tanh(scale z / cap).

    cap: None for scale z. Source: Gemma 2 (arXiv:2408.00118) caps, Granite and Cohere scale.
    """

    scale: float = 1.0
    cap: float | None = None

    def of(self, products: Tensor) -> Tensor:
        """Return the logits; products that have no graph are overwritten."""
        if self == LogitMap():
            return products
        if products.requires_grad:
            scaled = products * self.scale
            return scaled if self.cap is None else (scaled / self.cap).tanh() * self.cap
        products.mul_(self.scale)
        return products if self.cap is None else products.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Return d logits / d products where the logits are these."""
        if self.cap is None:
            return self.scale
        return (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


def logit_map(config: Any) -> LogitMap:
    """Return the map that a model's config names; that it is this one is shown at each load."""
    cap = next((c for name in _CAPS if (c := getattr(config, name, None))), None)
    scale = 1.0
    for name in _FACTORS:
        scale *= getattr(config, name, None) or 1.0
    for name in _DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    return LogitMap(scale, cap)


# What the families call it: Gemma, RecurrentGemma, xLSTM; Cohere, Falcon-H1; Granite and MiniCPM3,
# Inkling.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")


@dataclass(frozen=True)
class Head:
    """The LM head: logits = map(hidden @ weight.T + bias). weight: [V, D], bias: [V] or None."""

    weight: Tensor
    bias: Tensor | None = None
    map: LogitMap = LogitMap()

    def logits(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
        """Return logits [C, V] of hidden [C, D], accumulated in float32 (or in float64).

        room: logits no longer needed, at least C rows, to be written over.
        """
        return self.map.of(self.products(hidden, room))

    def products(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
        """Return what the map makes logits of, [C, V]: hidden @ weight.T + bias."""
        out = _product(hidden, self.weight, None if room is None else room[: len(hidden)])
        return out if self.bias is None else out.add_(self.bias)

    def pieces(self, hidden: Tensor, chunk: int, vocabulary: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows of hidden [N, D], and their logits: `chunk` rows a matrix product.

        vocabulary: what the size of a piece is taken from, so that two heads of different sizes
        are cut alike. A piece is overwritten later on.
        """
        logits = None
        for start in range(0, len(hidden), chunk):
            logits = self.logits(hidden[start : start + chunk], room=logits)
            for piece in pieces(len(logits), vocabulary, logits.device):
                yield slice(start + piece.start, start + piece.stop), logits[piece]


def _product(hidden: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    if hidden.is_cuda or hidden.dtype == weight.dtype:
        return product(hidden, weight.to(hidden.dtype).T, out)
    return hidden.float() @ weight.float().T


def product(left: Tensor, right: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """Return left @ right of two matrices of one type, accumulated in float32 (or in float64).

    out: where the result goes, in that type. add: to what is there already.
    """
    if left.dtype not in (torch.float32, torch.float64):
        if left.is_cuda:  # half-precision inputs, float32 accumulation and result
            if add and out is not None:
                return torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
            return torch.mm(left, right, out_dtype=torch.float32, out=out)
        left, right = left.float(), right.float()
    if add and out is not None:
        return out.addmm_(left, right)
    return torch.mm(left, right, out=out)
