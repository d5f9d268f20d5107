"""Settings are frozen and strict, and a field's mark says where it counts."""

from typing import Annotated

import pytest
from pydantic import ValidationError
from tip.stages.settings import BY_CONTENT, NOT_IN_KEY, Settings


class Inner(Settings):
    own: tuple[int, ...] = (1, 2)
    content: Annotated[str, BY_CONTENT] = "a"
    speed: Annotated[int, NOT_IN_KEY] = 3


class Outer(Settings):
    inner: Inner = Inner()
    by_content: Annotated[Inner, BY_CONTENT] = Inner()
    for_speed: Annotated[Inner, NOT_IN_KEY] = Inner()


def test_a_key_holds_what_bears_no_mark_and_a_run_also_what_counts_by_content() -> None:
    assert Outer().key() == {"inner": {"own": [1, 2]}}
    whole = {"own": [1, 2], "content": "a"}
    assert Outer().identity() == {"inner": whole, "by_content": whole}


def test_settings_do_not_change_and_unknown_names_are_refused() -> None:
    settings = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        settings.own = ()
    with pytest.raises(ValidationError, match="onw"):
        Inner.model_validate({"onw": (1,)})
