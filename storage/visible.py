"""Texts of other people's as a terminal may show them: nothing in them is a command to it."""

import unicodedata

# Controls, directions, lone surrogates, odd line ends.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_KEPT = "\n"


def visible(text: str) -> str:
    r"""Return a text with what does not show written out: `\x1b` for an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        repr(c)[1:-1] if c not in _KEPT and unicodedata.category(c) in _HIDDEN else c for c in text
    )
