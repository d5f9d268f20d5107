"""Triton's kernels of the sparse loss: what is done to all V logits of a row, and to its buckets.

Only `fused.py` imports this, where Triton is; with TRITON_INTERPRET=1, set before, they run on a
CPU. `products` are what the head multiplies; logits are made of them where they are read
(`LogitMap`), so that nobody writes them. Legend: C rows, K support slots, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..models.head import LogitMap
from .support import Support

# Ids that a program looks at together. A row is folded by one program, and a piece of a chunk is
# two rows for each multiprocessor of an H100: 32 kB of each on their way keep its memory busy.
_FOLDED, _SPREAD = 8192, 4096
_LEAST = tl.constexpr(-3.4028234663852886e38)  # of float32; -inf less -inf would be no number


@triton.jit
def _logits(products, scale, cap, CAPPED: tl.constexpr):
    """Return `LogitMap.of`; -inf, which stands for an id of the support, stays."""
    logits = products * scale
    if CAPPED:
        # exp of what is below 0 alone: no overflow, and an error of 6e-8 x cap at the most
        small = tl.exp(-2.0 * tl.abs(logits) / cap)
        size = cap * (1.0 - small) / (1.0 + small)
        capped = tl.where(logits < 0, -size, size)
        logits = tl.where(products == float("-inf"), float("-inf"), capped)
    return logits


@triton.jit
def fold_kernel(
    products, row_stride, vocabulary, shift, total, scale, cap,
    CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the largest logit of a row, and the sum of exp(logit - largest)."""
    row = tl.program_id(0).to(tl.int64)  # rows x V may be more than int32 counts
    lanes = tl.arange(0, BLOCK)
    # Each lane goes its own way, and they meet once: a maximum of the block in each step would make
    # all threads wait for each other, and one sum a row would lose digits.
    largest = tl.full([BLOCK], _LEAST, tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        ids = start + lanes
        inside = ids < vocabulary
        read = tl.load(products + row * row_stride + ids, mask=inside, other=float("-inf"))
        logits = _logits(read, scale, cap, CAPPED)
        above = tl.maximum(largest, logits)
        sums = sums * tl.exp(largest - above) + tl.exp(logits - above)
        largest = above
    top = tl.max(largest, 0)
    tl.store(total + row, tl.sum(sums * tl.exp(largest - top), 0))
    tl.store(shift + row, tl.where(top == _LEAST, float("-inf"), top))


@triton.jit
def spread_kernel(
    products, row_stride, vocabulary, shift, share, gradient, gradient_stride, scale, cap,
    CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write exp(logit - shift) x share, by the products: the gradient of the tail's ids."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocabulary
    read = tl.load(products + row * row_stride + ids, mask=inside, other=float("-inf"))
    logits = _logits(read, scale, cap, CAPPED)
    base = tl.load(shift + row)
    base = tl.where(base == float("-inf"), 0.0, base)  # a row without any id of the tail
    slopes = tl.exp(logits - base) * tl.load(share + row) * scale
    if CAPPED:
        flat = 1.0 - (logits / cap) * (logits / cap)
        slopes = tl.where(logits == float("-inf"), 0.0, slopes * flat)
    tl.store(gradient + row * gradient_stride + ids, slopes, mask=inside)


@triton.jit
def reverse_kl_kernel(
    picked, valid, log_q, tail_q, shift, total, weights, slots,
    nats, tail, share, gradient, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write reverse KL over K + 1 buckets and its gradient, in float64."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    places, inside = row * slots + lanes, lanes < slots
    there = tl.load(valid + places, mask=inside, other=0) != 0
    own = tl.load(picked + places, mask=inside, other=0.0).to(tl.float64)
    own = tl.where(there, own, float("-inf"))
    sum_, rest_q = tl.load(total + row).to(tl.float64), tl.load(tail_q + row).to(tl.float64)
    outside = (sum_ != 0.0) & (rest_q != float("-inf"))
    sum_ = tl.where(outside, sum_, 1.0)
    rest = tl.load(shift + row).to(tl.float64) + tl.log(sum_)
    rest = tl.where(outside, rest, float("-inf"))
    top = tl.maximum(tl.max(own, 0), rest)
    mass = top + tl.log(tl.sum(tl.exp(own - top), 0) + tl.exp(rest - top))
    log_p, rest_p = own - mass, rest - mass
    q = tl.load(log_q + places, mask=inside, other=0.0).to(tl.float64)
    ratio = tl.where(there, log_p - q, 0.0)
    rest_ratio = tl.where(outside, rest_p - rest_q, 0.0)
    p, p_rest = tl.exp(log_p), tl.exp(rest_p)
    loss = tl.sum(p * ratio, 0) + p_rest * rest_ratio
    weight = tl.load(weights + row)
    tl.store(nats + row, loss)
    tl.store(tail + row, rest_p)
    tl.store(gradient + places, p * (ratio - loss) * weight, mask=inside)
    # what the tail has is shared by its ids in proportion to their probability
    tail_gradient = p_rest * (rest_ratio - loss) * weight
    tl.store(share + row, tl.where(outside, tail_gradient / sum_, 0.0))


def fold(products: Tensor, map: LogitMap) -> tuple[Tensor, Tensor]:
    """Return each row's largest logit [C] and the sum of exp(logit - largest) [C], float32.

    products: [C, V] float32, each row without gaps; -inf where an id is not to be counted. A row of
    nothing else has -inf and 0.
    """
    rows, vocabulary = products.shape
    shift, total = products.new_empty(rows), products.new_empty(rows)
    scale, cap = _numbers(map)
    with there(products):
        fold_kernel[(rows,)](
            products, products.stride(0), vocabulary, shift, total, scale, cap,
            **constants(16, CAPPED=map.cap is not None, BLOCK=block(vocabulary, _FOLDED)),
        )  # fmt: skip
    return shift, total


def spread(products: Tensor, shift: Tensor, share: Tensor, map: LogitMap, gradient: Tensor) -> None:
    """Write share x exp(logit - shift), times d logit / d product, into gradient [C, V].

    gradient: of any float type; it may be the products themselves.
    """
    rows, vocabulary = products.shape
    size = block(vocabulary, _SPREAD)
    scale, cap = _numbers(map)
    with there(products):
        spread_kernel[(rows, triton.cdiv(vocabulary, size))](
            products, products.stride(0), vocabulary, shift, share, gradient, gradient.stride(0),
            scale, cap, **constants(8, CAPPED=map.cap is not None, BLOCK=size),
        )  # fmt: skip


def reverse_kl(
    picked: Tensor, support: Support, shift: Tensor, total: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return reverse KL [C], the log mass of the tail [C], the tail's share [C], the gradient.

    picked: logits of the support [C, K] float32. shift, total: of all other ids, from `fold`.
    weights: [C], factors of share and gradient. The gradient [C, K] is by the log mass of
    each slot, 0 in an empty one; the share is what `spread` takes, float32. All else is float64.
    """
    (rows, slots), weights = picked.shape, weights.double()
    nats, tail = (torch.empty_like(weights) for _ in range(2))
    share, gradient = torch.empty_like(shift), weights.new_empty(rows, slots)
    with there(picked):
        reverse_kl_kernel[(rows,)](
            picked, support.valid.contiguous(), support.logprobs.contiguous(), support.tail,
            shift, total, weights, slots, nats, tail, share, gradient,
            **constants(4, BLOCK=triton.next_power_of_2(slots)),
        )  # fmt: skip
    return nats, tail, share, gradient


def there(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return what lets kernels be launched on a tensor's device, which need not be the first."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def block(vocabulary: int, most: int) -> int:
    """Return how many ids a program looks at together: a power of two, `most` at the most."""
    return min(most, triton.next_power_of_2(vocabulary))


def constants(warps: int, **constants: Any) -> dict[str, Any]:
    """Return what a kernel is compiled for."""
    # products and sums are fused as Triton has always done it: no digit counts on their roundings
    return {"num_warps": warps, "enable_fp_fusion": True, **constants}


def _numbers(map: LogitMap) -> tuple[float, float]:
    return map.scale, 1.0 if map.cap is None else map.cap
