"""What a user can set for evaluation."""

from typing import Literal

from pydantic import model_validator

from ..engines.settings import SamplingSettings
from ..prompts.settings import TextSettings
from ..settings import Count, Natural, Positive


class EvaluateSettings(SamplingSettings, TextSettings):
    """Problems with known answers, asked before, between and after the rounds."""

    answer: str = "answer"
    """Column with the reference answer."""
    every: Natural = 0
    """Evaluate after every so many rounds. 0: only before the first and after the last."""
    verifier: Literal["math", "exact"] = "math"
    """`math`: math-verify decides. `exact`: the boxed text must equal the answer."""
    timeout: Positive = 5.0
    """Seconds that one verdict may take before its process is killed."""
    reverse_kl: bool = False
    """Also measure the mean reverse KL to the teacher, on fresh rollouts of the problems."""
    resamples: Count = 10_000
    """Bootstrap resamples of the 95 % interval. *Not in a key*."""

    @model_validator(mode="after")
    def _greedy_needs_one_sample(self) -> "EvaluateSettings":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} with temperature = 0 gives equal answers: set samples "
                "= 1, or a temperature above 0"
            )
        return self
