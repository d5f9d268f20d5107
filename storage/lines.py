"""A file of JSON lines that only grows: what was read before is not parsed again.

Each line carries a seal over what it says, so that a changed number is noticed. Lines of older
versions have none.
"""

import json
import os
from pathlib import Path
from typing import Any

from .errors import StoreError
from .keys import key_of


class JsonLines:
    """The lines of one file, in order; the file is made when first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; one that was cut by a kill is ended first. Raises `OSError`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut = file.read() != b"\n"
                file.write(b"\n" * cut)
            file.write(json.dumps(line | {"seal": _seal(line)}).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all lines but those that a kill has cut; none where there is no file.

        Raises `StoreError` for a line that is damaged in another way.
        """
        try:
            data = self._new()
        except FileNotFoundError:
            self._forget()
            return []
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read ({error.strerror}); check its permissions and disk"
            ) from error
        for text in data.split(b"\n")[:-1]:  # what follows the last line's end is being written
            self._take(text)
        return list(self._lines)

    def _forget(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._count, self._end, self._last = 0, 0, b""  # lines and bytes read; the last line

    def _new(self) -> bytes:
        """Return what was added, or everything where the last line read is not there any more."""
        with self.path.open("rb") as file:
            file.seek(self._end - len(self._last))
            data = file.read()
            if data.startswith(self._last):
                return data[len(self._last) :]
            self._forget()
            file.seek(0)
            return file.read()

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("expected an object")
            seal = line.pop("seal", None)
            if seal not in (None, _seal(line)):
                raise ValueError("its seal does not fit what it says")
            self._lines.append(line)
        except (ValueError, RecursionError) as error:
            if not _is_cut(text, error):
                raise StoreError(
                    f"{self.path}, line {self._count + 1}: damaged ({error}); remove that line: "
                    "the stage that it tells of is found in the store and told again"
                ) from error
        self._last = text + b"\n"
        self._end += len(self._last)
        self._count += 1


def _seal(line: dict[str, Any]) -> str:
    return key_of(json.dumps(line, sort_keys=True))  # its text, for a metric may be infinite


def _is_cut(text: bytes, error: Exception) -> bool:
    """Tell whether a line that does not parse only lacks its end, as a kill leaves it.

    A whole line begins and ends with a brace. A cut one may end with the brace of an inner object,
    and then the parser fails at its very end, or with one inside a text that has no end.
    """
    if not text.strip():
        return True
    if not text.startswith(b"{") or not isinstance(error, json.JSONDecodeError):
        return False
    if text.endswith(b"}"):
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    return error.msg != "Extra data"
