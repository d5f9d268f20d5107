"""What a user can set for rollouts."""

from typing import Annotated

from ..engines.settings import SamplingSettings
from ..settings import BY_CONTENT, Count, Fraction, Natural


class RolloutSettings(SamplingSettings):
    """Student rollouts of a round."""

    prompts: Annotated[Count, BY_CONTENT] = 128
    """Prompts a round."""
    student_top_p: Fraction = 0.99
    """Keep the student's most probable ids up to this mass: they lead the stored support."""
    student_top_max: Natural = 64
    """At most that many of them. 0: the support is the teacher's, with the sampled token."""
    replay: Annotated[str | None, BY_CONTENT] = None
    """Name of a run whose rollouts and teacher signals serve all rounds: nothing is generated."""
