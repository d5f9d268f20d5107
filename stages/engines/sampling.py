"""From logits and a uniform number to a token: the same on every engine that hands out logits."""

import torch
from torch import Tensor


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
        return _invert(scaled.softmax(1).double(), noise)
    most = min(top_k or scaled.shape[1], scaled.shape[1])
    # top-k first, then top-p within what it left, as the reference implementations do
    values, ids = scaled.topk(most, dim=1)
    probabilities = values.double().softmax(1)
    before = probabilities.cumsum(1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0)
    return ids.gather(1, _invert(kept, noise)[:, None]).squeeze(1)


def _invert(weights: Tensor, noise: Tensor) -> Tensor:
    """Return the first place where the running sum exceeds noise x total, [B]."""
    sums = weights.cumsum(1)
    target = noise.to(weights.dtype)[:, None] * sums[:, -1:]
    place = torch.searchsorted(sums, target, right=True)
    # noise x total may round up to the total: the last id with a positive weight is meant
    last = (sums < sums[:, -1:]).sum(1, keepdim=True)
    return torch.minimum(place, last).squeeze(1)
