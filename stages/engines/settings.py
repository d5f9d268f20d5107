"""How responses are sampled, whatever they are for."""

from typing import Annotated, Literal

from ..settings import NOT_IN_KEY, Count, Fraction, Natural, NotNegative, Settings


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
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates."""
    batch_size: Annotated[Count, NOT_IN_KEY] = 128
    """Rows generated together. Changes results only by rounding."""

    @property
    def cut(self) -> str | None:
        """Return the setting that keeps tokens from being sampled at all, None where none does."""
        if self.temperature == 0:
            return "temperature = 0"
        if self.top_p < 1:
            return f"top_p = {self.top_p:g}"
        return f"top_k = {self.top_k}" if self.top_k else None
