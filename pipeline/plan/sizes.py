"""What a plan of memory rests on: both models in numbers, and the longest that they are shown."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...stages.models.card import ModelCard
from ...stages.models.load import load_on_meta
from ...stages.models.quantised import quantised_by
from ...stages.models.size import Shape, shape_of
from ...stages.train.lora import lora_layers
from ...stages.train.settings import LoraSettings
from ..session import Session


@dataclass(frozen=True)
class Sizes:
    """Numbers of a run that no change of memory settings changes; prompts in tokens, the longest.

    shown: of what the teacher reads. problems, problem: 0 without an evaluation. packed: whether
    the teacher's own weights are quantised, so that their file says more than their number.
    """

    card: ModelCard
    student: Shape
    teacher: Shape
    packed: bool
    prompt: int
    shown: int
    problem: int
    problems: int

    @cached_property
    def _model(self) -> Any:
        return load_on_meta(self.card)

    def adapted(self, settings: LoraSettings) -> tuple[int, int]:
        """Return how many numbers the layers with adapters hold, and how many the adapters do."""
        layers = lora_layers(self._model, self.card, settings).values()
        base = sum(inputs * outputs for inputs, outputs in layers)
        return base, settings.rank * sum(inputs + outputs for inputs, outputs in layers)


def sizes_of(session: Session) -> Sizes:
    """Return the numbers of a run's models and prompts."""
    inputs, evaluated = session.inputs, session.config.evaluate is not None
    problems = inputs.problems if evaluated else []
    return Sizes(
        inputs.student_card,
        shape_of(inputs.student_card),
        shape_of(inputs.teacher_card),
        quantised_by(inputs.teacher_card) is not None,
        max(len(p.ids) for p in inputs.prompts),
        inputs.longest_shown,
        max((len(p.ids) for p in problems), default=0),
        len(problems),
    )
