"""What an engine is held against before it is used: the embedded engine's log-probs of its probes.

A checkpoint carries them as a fact from its training; a first model has them as a small artifact,
made once. Where the embedded engine cannot hold a model there are none: then the first scored shard
tells how far the engine is (`rounds/scores.py`).
"""

import numpy as np
import torch

from ...stages.engines.probe import reference_inputs, reference_logprobs
from ...stages.holder import Holder, InVllm, as_arrays
from ...storage.facts import ProbeFacts
from ...storage.store.store import Draft, Store


def reference_of(wanted: InVllm, holder: Holder, store: Store) -> np.ndarray | None:
    """Return the log-probs of the probes' tokens [T] float64, None where they cannot be had."""
    if wanted.reference is not None:
        return np.asarray(wanted.reference)
    weights, probes = wanted.weights, as_arrays(wanted.probes)
    inputs = reference_inputs(weights.fingerprint, weights.compute(), probes)

    def make(_: Draft) -> dict:
        found = reference_logprobs(holder.model(weights), probes)
        return ProbeFacts(logprobs=found.tolist()).dump()

    try:
        artifact, _ = store.ensure("reference", inputs, make)
    except torch.OutOfMemoryError:
        holder.say(
            f"note: the {weights.role} is too large for one device here, so vLLM cannot be "
            "compared with it beforehand; the first scored shard will tell"
        )
        return None
    return np.asarray(ProbeFacts.of(artifact).logprobs)
