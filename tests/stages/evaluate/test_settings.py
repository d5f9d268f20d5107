"""Settings of an evaluation that do not suit each other are refused."""

import pytest
from pydantic import ValidationError
from tip.stages.evaluate.settings import EvaluateSettings


def test_several_answers_that_would_be_equal_are_refused() -> None:
    with pytest.raises(ValidationError, match="samples = 2 with temperature = 0"):
        EvaluateSettings(source="x", temperature=0, samples=2)
    EvaluateSettings(source="x", temperature=0, samples=1)
    EvaluateSettings(source="x", temperature=0.1, samples=2)
