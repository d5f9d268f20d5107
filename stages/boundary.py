"""What libraries make of a user's files: whatever they raise, a person gets one line.

A library that reads what is not what it should be may raise anything, and may never come back.
"""

import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage.errors import TipError, is_panic


@contextmanager
def one_line(error: Callable[[str], TipError]) -> Iterator[None]:
    """Turn whatever is raised into a `TipError`. error: makes it of the reason, one line."""
    try:
        yield
    except TipError:
        raise
    except BaseException as raised:
        if not isinstance(raised, Exception) and not is_panic(raised):
            raise
        reason = " ".join(str(raised).split()) or type(raised).__name__
        raise error(reason if len(reason) <= 300 else f"{reason[:300]} ...") from raised


@contextmanager
def within(seconds: float, more_bytes: int = 1 << 29) -> Iterator[None]:
    """Raise `TimeoutError` in a block of Python that takes longer, `MemoryError` for more memory.

    Only the main thread can be interrupted, and only where nobody else uses the alarm: elsewhere
    the block takes what it takes.
    """
    alone = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
    if threading.current_thread() is not threading.main_thread() or not alone:
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"it has not ended after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with _no_more_memory(more_bytes):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _no_more_memory(more_bytes: int) -> Iterator[None]:
    """Keep the process to the addresses that it has and some more, where the system tells them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [pages * resource.getpagesize() + more_bytes]
    limits += [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
