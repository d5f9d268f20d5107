"""Batches of sequences: filled by token budget after sorting by length, padded on the right.

With the padding behind, causal attention never sees it: no mask is needed, and the result of a
row does not depend on its neighbours beyond the rounding of matrix products.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def fill(lengths: Sequence[int] | np.ndarray, budget: int) -> list[np.ndarray]:
    """Return batches of row indices, shortest rows first, each at most `budget` padded tokens.

    A row longer than the budget gets a batch of its own. Rows of length 0 are left out. The
    result depends only on the lengths, so it is the same on every machine.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    batches, start = [], 0
    for stop in range(1, len(order) + 1):
        full = stop == len(order) or (stop - start + 1) * sizes[order[stop]] > budget
        if full:
            batches.append(order[start:stop])
            start = stop
    return batches


def evenly(count: int, rows: int) -> np.ndarray:
    """Return `count` of the row indices (all, where there are fewer), spread evenly over them."""
    count = min(count, rows)
    return ((np.arange(count) + 0.5) * rows / max(count, 1)).astype(int)


def pad(rows: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return ids [B, T] int64 with zeros behind shorter rows."""
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return on_device(ids, device)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device. It goes to a GPU from pinned memory, so that nothing waits."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )
