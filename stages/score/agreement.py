"""Next-token agreement of two models, from the stored tables of a shard."""

import numpy as np
import pyarrow as pa

from ..arrays.ragged import Ragged, from_lists


def agreement(rollouts: pa.Table, teacher: pa.Table) -> np.ndarray:
    """Return at which of the N response tokens both models' first choices are the same, [N] bool.

    rollouts, teacher: tables of one shard, rows in one order. The student's first choice is the
    first of its stored top ids. The teacher agrees where no id of the support has a larger log-prob
    (float16, so near-ties agree); it does not where the support lacks the student's choice.
    """
    top = Ragged(from_lists(rollouts["top_ids"]).values, from_lists(rollouts["top_counts"]).values)
    ids, logprobs = from_lists(teacher["ids"]), from_lists(teacher["logprobs"])
    first, values = top.values[top.offsets[:-1]], logprobs.values.astype(np.float32)
    if not len(first):
        return np.zeros(0, dtype=bool)
    best = np.maximum.reduceat(values, ids.offsets[:-1])
    agree = (ids.values == np.repeat(first, ids.counts)) & (values == np.repeat(best, ids.counts))
    return np.logical_or.reduceat(agree, ids.offsets[:-1])
