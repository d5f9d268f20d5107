"""A process that is told to end, as clusters tell before they take a machine back.

Where that falls into a piece of work that must not be cut in two, it waits for the piece's end.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """This process was told to end (SIGTERM)."""


_asked = threading.Event()
_pieces = 0  # of work under way; the signal's handler and they run in one thread


def obey_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in the main thread of this program, from now on."""
    _asked.clear()
    signal.signal(signal.SIGTERM, _told)


def _told(*_: object) -> None:
    _asked.set()
    if not _pieces:
        raise Terminated


@contextmanager
def whole() -> Iterator[Callable[[], bool]]:
    """Do a piece of work to its end, and end then if that was asked for meanwhile.

    Gives what tells whether it was.
    """
    global _pieces  # noqa: PLW0603  # a signal is told to the whole process
    _pieces += 1
    try:
        yield _asked.is_set
    finally:
        _pieces -= 1
    if _asked.is_set() and not _pieces:
        raise Terminated


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: they inherit what this thread blocks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have a process of multiprocessing's told to end when the one that started it is gone."""
    threading.Thread(target=_outlive_nobody, name="tip-parent", daemon=True).start()


def _outlive_nobody() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
