"""Attention on a CPU: plain matrix products where torch's fused kernel is slower.

The fused kernel makes a small matrix product for each row and head. As one batched product, short
sequences take a third to a half of the time; and where oneDNN multiplies (`products.py`), each of
the small ones costs 11 us besides: one token that looks back at 100 others then takes 4 ms a layer
for 32 rows, instead of 0.2 ms. Long sequences are better off fused: their scores [T, T] would have
to be read from memory. Heads that share keys are multiplied together, so that keys are never
repeated.
"""

import contextlib
import inspect
import math
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

from .products import for_changing_shapes

NAME = "sdpa_by_products"  # a name with sdpa in it is refused to models that cannot do sdpa
_ASKS_FOR_SDPA = re.compile(r"_attn_implementation\b[^:]{0,80}[\"']sdpa[\"']")
_LONGEST = 256  # query tokens; longer ones go as fast through the fused kernel, without scores


def register() -> None:
    """Let transformers know this attention by its name, in this process."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def use_products_in_attention(model: Any) -> None:
    """Let a model of transformers use this attention; one that cannot keeps what it has.

    A model whose code asks for the name "sdpa" works differently under another one, and keeps it;
    transformers refuses the name to one that has no sdpa.
    """
    if not model._supports_sdpa:
        return
    code = sys.modules.get(type(model).__module__)
    try:
        free = code is not None and not _ASKS_FOR_SDPA.search(inspect.getsource(code))
    except OSError:  # code without a file
        free = False
    if free:
        model.set_attn_implementation(NAME)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Return what transformers' `sdpa` attention returns: [B, T, H, D_value].

    query: [B, H, T, D]; key, value: [B, H_shared, L, D]. attention_mask: boolean [B, 1, T, L], None
    for causal (or, with one query token, for all L).
    """
    tokens, seen = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None or (
        attention_mask.dtype == torch.bool
        and attention_mask.dim() == 4
        and attention_mask.shape[1] == 1
    )
    dtypes = {query.dtype, key.dtype, value.dtype}
    square = attention_mask is not None or tokens in (1, seen)
    if (
        tokens > _LONGEST
        or dropout
        or dtypes != {torch.float32}  # scores would be rounded
        or torch.is_autocast_enabled("cpu")
        or not (plain and square)
        or more.get("position_bias") is not None
    ):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **more,
        )
    if attention_mask is None and tokens > 1 and causal:
        attention_mask = torch.ones(1, 1, tokens, seen, dtype=torch.bool).tril()
    # In decoding each token sees one more than the last: a new shape at every step.
    with for_changing_shapes() if tokens == 1 else contextlib.nullcontext():
        return _by_products(query, key, value, attention_mask, scaling), None


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    rows, heads, tokens, width = query.shape
    shared = key.shape[1]
    together = heads // shared  # consecutive heads share keys
    scale = 1 / math.sqrt(width) if scaling is None else scaling
    grouped = (query * scale).reshape(rows, shared, together * tokens, width)
    scores = grouped @ key.transpose(2, 3)
    if mask is not None:
        # The smallest number, not -inf: a padding token that sees nothing must not become NaN.
        lowest = torch.finfo(scores.dtype).min
        by_head = scores.view(rows, shared, together, tokens, -1)
        by_head.masked_fill_(~mask[:, :, None], lowest)
    mixed = scores.softmax(-1) @ value
    return mixed.view(rows, heads, tokens, -1).transpose(1, 2).contiguous()
