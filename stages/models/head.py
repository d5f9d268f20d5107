"""The LM head: from hidden states to logits, a chunk at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arrays.chunks import pieces


@dataclass(frozen=True)
class Head:
    """The LM head: logits = hidden @ weight.T + bias. weight: [V, D], bias: [V] or None."""

    weight: Tensor
    bias: Tensor | None = None

    def logits(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
        """Return logits [C, V] of hidden [C, D], accumulated in float32 (or in float64).

        room: logits no longer needed, at least C rows, to be written over.
        """
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
    if hidden.dtype in (torch.float32, torch.float64) and hidden.dtype == weight.dtype:
        return torch.mm(hidden, weight.T, out=out)
    if hidden.is_cuda:  # half-precision inputs, float32 accumulation and result
        return torch.mm(hidden, weight.to(hidden.dtype).T, out_dtype=torch.float32)
    return hidden.float() @ weight.float().T
