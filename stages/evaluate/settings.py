"""What a user can set for evaluation."""

from typing import Annotated, Literal

from pydantic import model_validator

from ..engines.settings import SamplingSettings
from ..prompts.settings import TextSettings
from ..settings import BY_CONTENT, NOT_IN_KEY, Count, Natural, Positive


class EvaluateSettings(SamplingSettings, TextSettings):
    """Problems with known answers, asked before, between and after the rounds."""

    answer: Annotated[str, BY_CONTENT] = "answer"
    """Column with the reference answer."""
    every: Annotated[Natural, NOT_IN_KEY] = 0
    """Evaluate after every so many rounds. 0: only before the first and after the last."""
    verifier: Literal["math", "exact"] = "math"
    """`math`: math-verify decides. `exact`: the boxed text must equal the answer."""
    timeout: Positive = 5.0
    """Seconds that one verdict may take before its process is killed."""
    reverse_kl: Annotated[bool, NOT_IN_KEY] = False
    """Also measure the divergences to the teacher and the next-token agreement with it, on fresh
    rollouts of the problems."""
    resamples: Annotated[Count, NOT_IN_KEY] = 10_000
    """Bootstrap resamples of the 95 % interval."""

    @model_validator(mode="after")
    def _greedy_needs_one_sample(self) -> "EvaluateSettings":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} with temperature = 0 gives equal answers: set samples "
                "= 1, or a temperature above 0"
            )
        return self
