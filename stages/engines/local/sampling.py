"""From logits and a uniform number to a token: the same on every engine that hands out logits."""

import torch
from torch import Tensor

from ...signals.support import largest

_BLOCK = 256  # ids summed first as one


def draw(logits: Tensor, noise: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """Return a token id per row by inversion of the cumulative distribution, [B] int64.

    logits: [B, V] float32, kept as they are. noise: [B] float64 in [0, 1). Ids are taken in the
    order of the vocabulary (of falling probability where top-p or top-k apply), in float64, so
    that a token of probability 1e-12 is drawn as often as that.
    """
    if temperature == 0:
        return logits.argmax(1)
    scaled = logits if temperature == 1 else logits / temperature
    if top_p >= 1 and top_k == 0:
        return _invert(scaled.softmax(1), noise)
    most = min(top_k or scaled.shape[1], scaled.shape[1])
    # top-k first, then top-p within what it left, as the reference implementations do
    values, ids = largest(scaled, most)
    probabilities = values.double().softmax(1)
    before = probabilities.cumsum(1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0)
    return ids.gather(1, _invert(kept, noise)[:, None]).squeeze(1)


def _invert(weights: Tensor, noise: Tensor) -> Tensor:
    """Return the first place where the running sum exceeds noise x total, [B]; sums in float64.

    First the block of ids, then the id in it: no pass over all weights goes one by one.
    """
    rows, width = weights.shape
    noise = noise.double()[:, None]
    if width <= _BLOCK:
        sums = weights.double().cumsum(1)
        return _first_above(sums, noise * sums[:, -1:]).squeeze(1)
    if width % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -width % _BLOCK))
    blocks = weights.view(rows, -1, _BLOCK).double()
    sums = blocks.sum(2)
    ends = sums.cumsum(1)
    target = noise * ends[:, -1:]
    block = _first_above(ends, target)
    before = ends.gather(1, block) - sums.gather(1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1).cumsum(1)
    rest = (target - before).clamp(min=0)  # not below, by rounding: that would be any first id
    return (block * _BLOCK + _first_above(inside, rest)).squeeze(1)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """Return the first place where a running sum exceeds its target, both [B, ...], as [B, 1]."""
    place = torch.searchsorted(sums, target, right=True)
    # the target may round up to the total: the last id with a positive weight is meant
    last = (sums < sums[:, -1:]).sum(1, keepdim=True)
    return torch.minimum(place, last)
