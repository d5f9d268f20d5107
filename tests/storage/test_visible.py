"""What a terminal would obey is written out."""

import pytest
from tip.storage.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red] text", "plain [red] text"),
        ("Zürich 東京 😀", "Zürich 東京 😀"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\tb\rc", r"a\tb\rc"),
        ("two\nlines", "two\nlines"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("\ud800", r"\ud800"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_commands_are_written_out_and_words_stay(text: str, shown: str) -> None:
    assert visible(text) == shown
