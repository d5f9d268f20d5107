"""A model as a value: which weights, for whom, computed in which type. Nothing is loaded by it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...storage.facts import CheckpointFacts
from ...storage.store.artifacts import Artifact
from .card import ModelCard
from .settings import VllmSettings

Role = Literal["student", "teacher"]


@dataclass(frozen=True)
class Weights:
    """What loads a model, and what a key says of it.

    key: of the training that made it; of a first model, its fingerprint. dtype: compute type in
    rollout and scoring, such as `bfloat16`. vllm: how vLLM holds it, where vLLM runs it.
    checkpoint: where the weights are one of the store; the card's folder then only names them, for
    it differs from host to host, and a remote one is fetched by who loads it.
    """

    role: Role
    card: ModelCard
    key: str
    dtype: str
    vllm: VllmSettings = field(default_factory=VllmSettings)
    checkpoint: Artifact | None = None

    @property
    def fingerprint(self) -> str:
        """Return what a cache key knows of the weights; empty where they were not hashed yet."""
        return self.card.fingerprint

    def trained(self, checkpoint: Artifact) -> "Weights":
        """Return the student of a checkpoint of this one's; tokenizer and stop ids stay."""
        fingerprint = CheckpointFacts.of(checkpoint).fingerprint
        name = Path("checkpoint", checkpoint.key)
        card = replace(self.card, folder=name, fingerprint=fingerprint, adapter=None)
        return replace(self, card=card, key=checkpoint.key, checkpoint=checkpoint)

    def compute(self, engine: str = "transformers") -> str:
        """Return what a key knows of how an engine computes: its type, what vLLM makes of it."""
        dtype = f"torch.{self.dtype}"
        more = [self.vllm.quantization or "", self.vllm.kv_cache_dtype]
        return dtype if engine != "vllm" or more == ["", "auto"] else " ".join([dtype, *more])
