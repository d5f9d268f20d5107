"""How responses are sampled, whatever they are for."""

from typing import Annotated, Literal

from ..settings import NOT_IN_KEY, Count, Fraction, Natural, NotNegative, Settings

EngineName = Literal["transformers", "vllm"]

_CERTAIN = {"temperature": 0, "top_k": 1}  # with either, nothing is left to chance


class SamplingSettings(Settings):
    """How responses are sampled."""

    samples: Count = 1
    """Responses a prompt."""
    temperature: NotNegative = 1.0
    """0 takes the most probable token. Log-probs are stored at temperature 1 whatever this is."""
    top_p: Fraction = 1.0
    """Sample from the smallest set of tokens with this mass."""
    top_k: Natural = 0
    """Sample from that many most probable tokens. 0: all."""
    max_tokens: Count = 512
    """Longest response in tokens."""
    stop_ids: tuple[int, ...] = ()
    """Further token ids that end a response, beside the model's own."""
    engine: EngineName | Literal["auto"] = "transformers"
    """What generates: the embedded engine, or vLLM. `auto`: vLLM where it is installed and there
    is a GPU, else the embedded one; a run keeps what it was first started with, and keys hold the
    name of that."""
    batch_size: Annotated[Count, NOT_IN_KEY] = 128
    """Rows generated together. Changes results only by rounding."""
    graphs: Annotated[bool, NOT_IN_KEY] = False
    """On a GPU record the embedded engine's steps as CUDA graphs and replay them, for models of
    plain full attention; keys and values then take up to twice the memory. Not yet tried on a GPU,
    so off."""

    def notes(self, section: str) -> list[str]:
        """Return what is odd about them, though it can be used. section: where they stand."""
        certain = [f"{k} = {v}" for k, v in _CERTAIN.items() if getattr(self, k) == v]
        if self.samples == 1 or not certain:
            return []
        return [
            f"{section}.samples = {self.samples} with {certain[0]}: all samples of a prompt are "
            f"equal; set {section}.samples = 1, or let chance decide"
        ]

    @property
    def cut(self) -> str | None:
        """Return the setting that keeps tokens from being sampled at all, None where none does."""
        if self.temperature == 0:
            return "temperature = 0"
        if self.top_p < 1:
            return f"top_p = {self.top_p:g}"
        return f"top_k = {self.top_k}" if self.top_k else None
