"""How far an engine's log-probs are from the trainer's, asked before an engine is used.

The two run different kernels, so there always is a gap; training corrects nothing for it. A gross
one means other weights: a stale copy, a wrong quantisation, a wrong reading of the config.

The trainer's side is data, a flat array of log-probs under the key of the sequences they are of:
kept with a checkpoint when it is made, or in a small artifact, so that a model need not be loaded
again, nor fit on one device, to be compared with.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...storage.errors import DisagreementError
from ...storage.facts import EngineGap
from ...storage.keys import key_of
from ..arrays.ragged import Ragged
from ..models.language_model import LanguageModel
from ..prompts.render import Prompt
from ..signals.alignment import predicting_states, token_logprobs
from .protocols import Scorer

VERSION = 1  # of the reference
PROBES, PROBE_TOKENS = 4, 512
KNOWN_TOKENS = 12  # read where only whether a model computes is asked
_CHUNK_ELEMENTS = 1 << 24  # logits held at once
# Mean |gap| in nats beyond which an engine is refused. Measured for right weights: 1e-6 in float32
# on a CPU; published: 0.002 in float32 and 0.03 in bfloat16 on GPUs (ServiceNow/Fast-LLM PR #525).
_LIMITS = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.25}
_QUANTISED = 0.5


def probe_sequences(prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """Return a few prompts to compare on; each has a token that is predicted."""
    chosen = [p.ids for p in prompts if len(p.ids) > 1][:PROBES]
    return [np.asarray(ids[:PROBE_TOKENS], dtype=np.int64) for ids in chosen]


def probe_key(sequences: Sequence[np.ndarray]) -> str:
    """Return the key of the sequences that log-probs are of."""
    return key_of([s.tolist() for s in sequences])


def reference_inputs(fingerprint: str, dtype: str, sequences: Sequence[np.ndarray]) -> dict:
    """Return what makes a model's reference: the printable value behind its key."""
    return {
        "version": VERSION,
        "model": fingerprint,
        "dtype": dtype,
        "sequences": probe_key(sequences),
    }


def reference_logprobs(model: LanguageModel, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the trainer's log-prob of each token after the first, all in one array (float64).

    float64, so that JSON gives back the same numbers.
    """
    return np.concatenate(trainer_logprobs(model, sequences)).astype(np.float64)


@torch.inference_mode()
def trainer_logprobs(model: LanguageModel, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the log-prob of each token after the first, sequence by sequence."""
    out = []
    for sequence in sequences:
        first, rest = sequence[:1], Ragged(sequence[1:], np.array([len(sequence) - 1]))
        states = predicting_states(model, [first], rest, np.array([0]))
        out.append(token_logprobs(model, states, rest.values, _CHUNK_ELEMENTS))
    return out


def measured_gap(
    engine: Scorer, sequences: Sequence[np.ndarray], reference: np.ndarray
) -> EngineGap:
    """Return how far an engine is from reference log-probs of the same sequences."""
    found = engine.score(sequences, [1] * len(sequences), 1)
    theirs = np.concatenate([answer.logprobs[:, 0] for answer in found]).astype(np.float64)
    return gap_of(theirs - reference)


def gap_of(differences: np.ndarray) -> EngineGap:
    """Return the gap of differences of log-probs, one a token, in nats."""
    return EngineGap(
        mean=float(np.abs(differences).mean()),
        rms=float(np.sqrt(np.square(differences).mean())),
        tokens=len(differences),
    )


def usual_limit(dtype: str, quantization: str | None) -> float:
    """Return the mean |gap| in nats that no rounding of an engine's exceeds. dtype: `float32`."""
    return _QUANTISED if quantization else _LIMITS[dtype]


def refuse_gross(gap: EngineGap, limit: float, model: str | Path) -> None:
    """Raise `DisagreementError` for a mean gap above a limit. model: for whom reads it."""
    if not gap.mean <= limit:  # NaN is refused too
        raise DisagreementError(
            f"{model}: vLLM's log-probs differ from the trainer's by {gap.mean:.3g} nats on "
            f"average over {gap.tokens} tokens (at most {limit:g} expected): it computes another "
            "model, and rollouts of it would be off-policy; set engine = 'transformers', or "
            "vllm.max_gap if this is wanted"
        )
