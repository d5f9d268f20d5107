"""Chats: a column of a row that holds messages."""

from typing import Any

from ...storage.errors import InputError
from ...storage.sources.rows import Row

_EXPECTED = "a list of messages with `role` and `content`, both text"


def chat_of(row: Row, column: str) -> list[dict[str, str]]:
    """Return the messages of a row up to where an assistant is to answer.

    What an assistant says at the end is left off. Further fields of a message are dropped. Raises
    `InputError` for what is no chat, and for one that leaves nothing to answer.
    """
    value = row.fields[column]
    if not isinstance(value, list) or not value:
        raise InputError(f"{row.place}: column {column!r} is no chat; expected {_EXPECTED}")
    messages = [_message(row, column, number, each) for number, each in enumerate(value, 1)]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or not any(message["role"] == "user" for message in messages):
        raise InputError(
            f"{row.place}: column {column!r}: nobody asks anything; expected a message of role "
            "'user' before the answer"
        )
    if not messages[-1]["content"].strip():
        raise InputError(f"{row.place}: column {column!r}: the last message is blank")
    return messages


def _message(row: Row, column: str, number: int, message: Any) -> dict[str, str]:
    place = f"{row.place}: column {column!r}, message {number}"
    if not isinstance(message, dict):
        raise InputError(f"{place}: is no object; expected {_EXPECTED}")
    found = {name: message.get(name) for name in ("role", "content")}
    for name, text in found.items():
        if not isinstance(text, str):
            raise InputError(f"{place}: {name} is {text!r:.60}; expected text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{place}: {name} holds half of a character (a lone surrogate)")
    return {name: str(text) for name, text in found.items()}
