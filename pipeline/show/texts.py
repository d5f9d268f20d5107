"""Token ids as people read them, one by one."""

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what a decoder gives for bytes that are no whole character
_LONGEST = 4  # tokens whose bytes may make one character


class Texts:
    """The texts of single tokens. tokenizer: None where it is not here; then ids stand for texts.

    A token is decoded behind another one: alone, some decoders would take its leading space away.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        self._before: tuple[int, ...] = ()
        if tokenizer is not None:
            ids = map(_one, range(len(tokenizer)))
            self._before = next(filter(self._is_word, ids), ())
            self._start = len(self._decode(()))

    def of(self, token: int) -> str:
        """Return the text of a token, or `#17` where nobody can tell."""
        if self._tokenizer is None:
            return f"#{token}"
        if token not in self._known:
            self._known[token] = self._decode((token,))[self._start :]
        return self._known[token]

    def in_order(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token of a sequence.

        Where several make one character together it is the text of the first, and the others have
        none.
        """
        out = [self.of(token) for token in ids]
        place = 0
        while place < len(out):
            width = self._width(ids, out, place)
            if width > 1:
                whole = self._decode(tuple(ids[place : place + width]))[self._start :]
                out[place : place + width] = [whole, *[""] * (width - 1)]
            place += width
        return out

    def _width(self, ids: Sequence[int], texts: Sequence[str], place: int) -> int:
        """Return how many tokens from a place on make whole characters together, else 1."""
        if _BROKEN not in texts[place] or self._tokenizer is None:
            return 1
        for width in range(2, min(_LONGEST, len(ids) - place) + 1):
            if _BROKEN not in self._decode(tuple(ids[place : place + width])):
                return width
        return 1

    def _is_word(self, ids: tuple[int, ...]) -> bool:
        return self._decode(ids).strip().isalnum()

    def _decode(self, ids: tuple[int, ...]) -> str:
        return self._tokenizer.decode(
            [*self._before, *ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def _one(token: int) -> tuple[int, ...]:
    return (token,)
