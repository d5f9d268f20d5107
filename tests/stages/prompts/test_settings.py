"""Settings of prompts that do not suit each other are refused."""

from typing import Any

import pytest
from tip.stages.prompts.settings import TextSettings


def settings(**changes: Any) -> TextSettings:
    return TextSettings(**{"source": "some.jsonl", "format": "{q}", **changes})


@pytest.mark.parametrize("changes", [{"system": "Be brief."}, {"chat_kwargs": {"x": 1}}])
def test_chat_settings_beside_a_raw_template_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="belong to template = 'chat', but template = 'raw'"):
        settings(template="raw", **changes)
