"""How many rows of logits are worked on at a time.

Two sizes: a chunk, as many rows as the LM head turns into logits in one matrix product, and on a
CPU its pieces, few enough that the passes over them find their numbers in the cache (and that
their temporaries come from the heap, not from pages that the system hands out anew each time).
"""

from collections.abc import Iterator

import torch

_CACHE_ELEMENTS = 1 << 20  # 4 MB in float32


def chunk_rows(elements: int, vocabulary: int) -> int:
    """Return how many rows of logits fit into `elements` numbers; at least one."""
    return max(1, elements // vocabulary)


def pieces(rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Yield the pieces of a chunk of `rows` rows; on a GPU, which has no use for them, one."""
    size = chunk_rows(_CACHE_ELEMENTS, vocabulary) if device.type == "cpu" else rows
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
