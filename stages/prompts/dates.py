"""One day for chat templates that write today's date.

Llama 3, SmolLM3, Mistral and gpt-oss have such templates. With the clock's date every prompt would
be another one tomorrow: a run could not go on, and a store would know nothing of it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def date_arguments(template: Any, day: str) -> dict[str, Any]:
    """Return the arguments for which it is that day to a chat template; none if it writes no date.

    `strftime_now` hides the function of that name that transformers gives to templates;
    `date_string` is what Llama's ask for before it, in their own form. day: YYYY-MM-DD.
    """
    now = datetime.fromisoformat(day)
    known = {"strftime_now": now.strftime, "date_string": now.strftime("%d %b %Y")}
    return {name: value for name, value in known.items() if name in str(template)}


def date_notes(template: Any, day: str, chat_kwargs: Mapping[str, Any]) -> list[str]:
    """Return a note on the date that a chat template writes; none if it writes no date."""
    given = date_arguments(template, day)
    if "date_string" in given and "date_string" in chat_kwargs:
        own = chat_kwargs["date_string"]
        return [f"the chat template writes the date, which chat_kwargs gives as {own!r}"]
    return [f"the chat template writes the date, which is {day} in all runs"] if given else []
