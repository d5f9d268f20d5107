"""A setting of selection that means nothing is refused."""

from typing import Any

import pytest
from pydantic import ValidationError
from tip.stages.select.settings import SelectSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": 0.0},
        {"keep": 1.1},
        {"scope": "batch"},
        {"params": {"percentile": "high"}},
        {"cuts": "mean"},
        {"entropy_cut": -0.1},
        {"divergence_cut": -0.1},
        {"memory_gb": 0.0},
        {"share": 0.2},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        SelectSettings(**changes)
