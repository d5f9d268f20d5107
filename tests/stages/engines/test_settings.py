"""A setting of sampling that means nothing is refused."""

from typing import Any

import pytest
from pydantic import ValidationError
from tip.stages.engines.settings import SamplingSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_tokens": 0},
        {"engine": "sglang"},
        {"batch_size": 0},
        {"tempreature": 1.0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        SamplingSettings(**changes)
