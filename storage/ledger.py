"""What the seconds of a process went into: loading, waiting, writing, compiling; else computing.

A second belongs to one word: that of the innermost block it was spent in. Only the thread that made
a ledger is counted, for what other threads do meanwhile takes it no time.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Word = Literal["loading", "waiting", "writing", "compiling"]
"""loading: weights, states and tables, read, checked and put on the device. waiting: for other
processes, a server, or a write that another thread has not ended. writing: tables, checkpoints and
states, hashed and brought to the disk. compiling: programs for a GPU."""


class Ledger:
    """Seconds by word."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(get_args(Word), 0.0)
        self._words: list[Word] = []  # of the blocks that are open, the innermost last
        self._since, self._thread = time.perf_counter(), threading.get_ident()

    @contextmanager
    def of(self, word: Word) -> Iterator[None]:
        """Count the seconds of the block, but for those of a block within that has its own word."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._count()
        self._words.append(word)
        try:
            yield
        finally:
            self._count()
            self._words.pop()

    def add(self, word: Word, seconds: float) -> None:
        """Count seconds that somebody else has measured, in no block."""
        self._seconds[word] += seconds

    def seconds(self) -> dict[str, float]:
        """Return all seconds so far, by word."""
        if threading.get_ident() == self._thread:
            self._count()
        return dict(self._seconds)

    def _count(self) -> None:
        now = time.perf_counter()
        if self._words:
            self._seconds[self._words[-1]] += now - self._since
        self._since = now
