"""A setting of a model that means nothing is refused."""

import pytest
from pydantic import ValidationError
from tip.stages.models.settings import ServerSettings


def test_an_address_that_is_none_is_refused_by_the_config() -> None:
    with pytest.raises(ValidationError, match="pattern"):
        ServerSettings(url="nowhere")
