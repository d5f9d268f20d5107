"""What an engine is held against before it is used: the embedded engine's log-probs of its probes.

A checkpoint carries them as a fact from its training; a first model has them as a small artifact,
made once. Where the embedded engine cannot hold a model there are none: then the first scored shard
tells how far the engine is (`rounds/scores.py`).
"""

from collections.abc import Sequence

import numpy as np
import torch

from ...stages.engines.probe import reference_inputs, reference_logprobs
from ...stages.holder import Holder, InVllm, as_arrays
from ...stages.models.weights import Weights
from ...storage.facts import ProbeFacts
from ...storage.store.store import Artifact, Draft, Store


def stored_reference(
    weights: Weights, probes: Sequence[np.ndarray], holder: Holder, store: Store
) -> tuple[Artifact, bool]:
    """Return the artifact with a model's log-probs of some tokens, and whether it was made now.

    Loads the model where it was not.
    """

    def make(_: Draft) -> dict:
        found = reference_logprobs(holder.model(weights), probes)
        return ProbeFacts(logprobs=found.tolist()).dump()

    inputs = reference_inputs(weights.fingerprint, weights.compute(), probes)
    return store.ensure("reference", inputs, make)


def reference_of(wanted: InVllm, holder: Holder, store: Store) -> np.ndarray | None:
    """Return the log-probs of the probes' tokens [T] float64, None where they cannot be had."""
    if wanted.reference is not None:
        return np.asarray(wanted.reference)
    weights = wanted.weights
    try:
        artifact, _ = stored_reference(weights, as_arrays(wanted.probes), holder, store)
    except torch.OutOfMemoryError:
        holder.say(
            f"note: the {weights.role} is too large for one device here, so vLLM cannot be "
            "compared with it beforehand; the first scored shard will tell"
        )
        return None
    return np.asarray(ProbeFacts.of(artifact).logprobs)
