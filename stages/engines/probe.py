"""How far an engine's log-probs are from the trainer's, asked before an engine is used.

The two run different kernels, so there always is a gap; training corrects nothing for it. A gross
one means other weights: a stale copy, a wrong quantisation, a wrong reading of the config.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...storage.errors import NumericsError
from ..models.language_model import LanguageModel
from ..prompts.render import Prompt
from .vllm.engine import VllmEngine

PROBES, PROBE_TOKENS = 4, 512
# Mean |gap| in nats beyond which an engine is refused. Measured for right weights: 1e-6 in float32
# on a CPU; published: 0.002 in float32 and 0.03 in bfloat16 on GPUs (ServiceNow/Fast-LLM PR #525).
_LIMITS = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.25}
_QUANTISED = 0.5


@dataclass(frozen=True)
class Gap:
    """Difference of two computations of the same log-probs, in nats, over `tokens` tokens."""

    mean: float
    rms: float
    tokens: int


def probe_sequences(prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """Return a few prompts to compare on; each has a token that is predicted."""
    chosen = [p.ids for p in prompts if len(p.ids) > 1][:PROBES]
    return [np.asarray(ids[:PROBE_TOKENS], dtype=np.int64) for ids in chosen]


@torch.inference_mode()
def trainer_logprobs(model: LanguageModel, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the log-prob of each token after the first, sequence by sequence."""
    out = []
    for sequence in sequences:
        ids = torch.from_numpy(sequence).to(model.device)
        logits = model.head.logits(model.hidden(ids[None])[0, :-1])
        out.append(logits.log_softmax(1).gather(1, ids[1:, None]).squeeze(1).cpu().numpy())
    return out


def measured_gap(
    engine: VllmEngine, sequences: Sequence[np.ndarray], reference: Sequence[np.ndarray]
) -> Gap:
    """Return how far an engine is from the trainer's log-probs of the same tokens."""
    found = engine.score(sequences, [1] * len(sequences), 1)
    theirs = np.concatenate([logprobs[:, 0] for _, logprobs, _ in found]).astype(np.float64)
    difference = theirs - np.concatenate(list(reference))
    return Gap(
        float(np.abs(difference).mean()),
        float(np.sqrt(np.square(difference).mean())),
        len(difference),
    )


def refuse_gross(gap: Gap, engine: VllmEngine, limit: float | None) -> None:
    """Raise `NumericsError` for a gap that no rounding explains. limit: in nats, None: by type."""
    spec = engine.spec
    usual = _QUANTISED if spec.quantization else _LIMITS[spec.dtype]
    allowed = usual if limit is None else limit
    if not gap.mean <= allowed:  # NaN is refused too
        raise NumericsError(
            f"{spec.folder}: vLLM's log-probs differ from the trainer's by {gap.mean:.3g} nats on "
            f"average over {gap.tokens} tokens (at most {allowed:g} expected): it computes another "
            "model, and rollouts of it would be off-policy; set engine = 'transformers', or "
            "vllm.max_gap if this is wanted"
        )
