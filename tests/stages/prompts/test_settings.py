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


def test_a_chat_template_adds_its_own_special_tokens() -> None:
    with pytest.raises(ValueError, match="add_special_tokens belongs to template = 'raw'"):
        settings(template="chat", add_special_tokens=False)
    assert settings(template="raw", add_special_tokens=False).add_special_tokens is False


@pytest.mark.parametrize("day", ["today", "2024-02-30", "26 Jul 2024", ""])
def test_a_date_that_is_no_day_is_refused(day: str) -> None:
    with pytest.raises(ValueError, match="is no day; expected one as YYYY-MM-DD"):
        settings(date=day)
