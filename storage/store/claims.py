"""Claims: who is making what. They save work; they never decide what is true.

A claim is a small file `claim-<n>` in the artifact's folder, whose holder raises a counter in it.
Whoever waits judges silence by its own monotonic clock, so no two clocks are ever compared, and
takes over by creating `claim-<n+1>`, at once where it sees that the holder's process has ended. If
a silent holder wakes up after all, two processes do the same work and the commit decides.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError
from ..processes import has_ended, this_process
from .places import Place, unique

_log = logging.getLogger(__name__)
_CLAIM = re.compile(r"claim-(\d{1,9})")


@dataclass(frozen=True)
class Patience:
    """How often a holder shows that it lives, and for how long a waiter accepts silence."""

    beat_seconds: float = 2.0
    silence_seconds: float = 15.0
    """Well above what keeps a healthy holder from its counter: a pause of the interpreter inside
    one long native call, a slow disk."""


class Claim:
    """A claim that this process holds; as a context it beats, and in the end it is removed."""

    def __init__(self, place: Place, folder: str, number: int, token: str, beat: float) -> None:
        self.number = number
        self._place, self._folder, self._token, self._beat_seconds = place, folder, token, beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="tip-claim", daemon=True)

    def start(self) -> None:
        """Begin to show that its holder lives."""
        self._thread.start()

    def __enter__(self) -> "Claim":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let it go; may be called again."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        # Those taken over from silent holders go as well; later ones belong to somebody else.
        with suppress(StoreError):
            for number in _claims(self._place, self._folder):
                if number <= self.number:
                    self._place.remove(_name(self._folder, number))

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(self._beat_seconds):
            beats += 1
            with suppress(StoreError):  # at worst somebody takes over
                self._place.write(_name(self._folder, self.number), _text(self._token, beats))


def acquire(
    place: Place,
    folder: str,
    patience: Patience,
    done: Callable[[], bool],
    *,
    wait: bool = True,
) -> Claim | None:
    """Wait until this process holds a claim on an artifact's folder; None if `done` comes first.

    Polls at a quarter of the beat. With `silence_seconds = 0` nobody waits for anybody. Without
    `wait` there is one try: None where somebody holds a claim who has not been seen to end.
    """
    token = unique()
    watched, since = (0, b""), time.monotonic()
    while not done():
        number = max(_claims(place, folder), default=0)
        seen = (number, (place.read(_name(folder, number)) or b"") if number else b"")
        if seen != watched:
            if number != watched[0] and number:
                _log.info("waiting for %s, which %s is making", folder, _holder(seen[1]))
            watched, since = seen, time.monotonic()
        silent = wait and time.monotonic() - since >= patience.silence_seconds
        free = number == 0 or silent or has_ended(_about(seen[1]).get("process"))
        if free and place.create(_name(folder, number + 1), _text(token, 0)):
            return Claim(place, folder, number + 1, token, patience.beat_seconds)
        if not wait:
            return None
        time.sleep(patience.beat_seconds / 4)
    return None


def is_claim(name: str) -> bool:
    """Tell whether a file name in an artifact's folder is that of a claim."""
    return _CLAIM.fullmatch(name) is not None


def _claims(place: Place, folder: str) -> list[int]:
    names = (entry.name.removeprefix(f"{folder}/") for entry in place.entries(folder))
    return [int(match[1]) for name in names if (match := _CLAIM.fullmatch(name))]


def _name(folder: str, number: int) -> str:
    return f"{folder}/claim-{number}"


def _text(token: str, beats: int) -> bytes:
    return json.dumps({"process": this_process(), "token": token, "beats": beats}).encode()


def _holder(text: bytes) -> str:
    """Return who holds a claim, for a log line."""
    process = _about(text).get("process")
    if not isinstance(process, dict):
        return "somebody"
    return f"process {process.get('pid')} on {process.get('host')}"[:80]


def _about(text: bytes) -> dict[str, Any]:
    """Return what a claim says, nothing where it is torn or a stranger's."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
