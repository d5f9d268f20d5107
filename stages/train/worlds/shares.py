"""A step's micro-batches spread over ranks: equally many for each, of nearly equal cost.

The cost of a micro-batch is the tokens that its body reads, padding included: ranks hold very
different numbers of selected tokens, and the body is most of the work.
"""

from collections.abc import Sequence

import numpy as np


def shares(batches: Sequence[np.ndarray], lengths: np.ndarray, size: int) -> list[list[np.ndarray]]:
    """Return the micro-batches of each of `size` ranks, equally many, the longest first.

    batches: rows of each micro-batch. lengths: ids that the body reads, by row. Where their number
    is no multiple of `size`, the costliest are halved; a rank for which none is left gets an
    empty one. The result depends on lengths alone, so every rank finds the same.
    """
    batches = list(batches)
    while len(batches) % size:
        wide = [place for place, rows in enumerate(batches) if len(rows) > 1]
        if not wide:
            break
        place = max(wide, key=lambda p: (_cost(batches[p], lengths), -p))
        rows = batches.pop(place)
        batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    slots = -(-len(batches) // size)
    parts: list[list[np.ndarray]] = [[] for _ in range(size)]
    loads = [0] * size
    order = sorted(range(len(batches)), key=lambda p: (-_cost(batches[p], lengths), p))
    for place in order:
        rank = min((r for r in range(size) if len(parts[r]) < slots), key=lambda r: (loads[r], r))
        parts[rank].append(batches[place])
        loads[rank] += _cost(batches[place], lengths)
    empty = np.zeros(0, dtype=np.int64)
    return [part + [empty] * (slots - len(part)) for part in parts]


def _cost(rows: np.ndarray, lengths: np.ndarray) -> int:
    return len(rows) * int(lengths[rows].max())
