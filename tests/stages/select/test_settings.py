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
        {"count": 0},
        {"count": 1.5},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        SelectSettings(**changes)


def test_a_count_stands_in_place_of_the_share_and_survives_being_written() -> None:
    counted = SelectSettings(count=2)
    assert (counted.keep, counted.count) == (None, 2)
    assert SelectSettings.model_validate(counted.model_dump(mode="json")) == counted
    assert (SelectSettings(count=None).keep, SelectSettings().count) == (0.2, None)


def test_a_share_and_a_count_are_refused_and_so_is_neither() -> None:
    with pytest.raises(ValidationError, match=r"keep = 0\.2 and count = 2: one of them says"):
        SelectSettings(keep=0.2, count=2)
    with pytest.raises(ValidationError, match="keep and count are both null: set one of them"):
        SelectSettings(keep=None)
