"""What a person sees of long work: a bar with rate and time left, then one line that stays.

On a terminal a bar moves while a stage works; elsewhere (a log file, a pipe) only lines are
written, of work that takes minutes a few on the way. Nothing here decides anything.
"""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..stages.engines.protocols import Tick
from ..storage.ledger import Ledger
from ..storage.visible import visible
from .pace import Pace, moving, new_bar

if TYPE_CHECKING:
    import torch


class Reporter:
    """Writes progress to a console; `quiet` writes nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """Write to `console`, standard error by default."""
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """Write one line that stays."""
        self.console.print(visible(text), markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        """Show a bar while the block runs; the value given is called with what is newly done."""
        if total <= 0:
            yield lambda _: None
        elif self.console.is_terminal:
            progress = new_bar(self.console, transient=True)
            with progress:
                yield moving(progress, title, Pace(total, unit))
        else:
            yield self._telling(title, Pace(total, unit))

    def _telling(self, title: str, pace: Pace) -> Tick:
        """Return a tick that writes a line after a minute, after two, after four, and so on."""
        due = _FIRST_LINE

        def tick(count: int) -> None:
            nonlocal due
            pace.add(count)
            if pace.elapsed >= due:
                due = 2 * pace.elapsed
                self.say(f"{title}: {pace}")

        return tick


_FIRST_LINE = 60.0  # seconds


class Stopwatch:
    """Seconds since it was made, and by a ledger what they went into."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        """Start."""
        self._ledger = ledger or Ledger()
        self._start, self._before = time.perf_counter(), self._ledger.seconds()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start, to the millisecond."""
        return round(time.perf_counter() - self._start, 3)

    @property
    def spent(self) -> dict[str, float]:
        """Return what the seconds since the start went into: `computing` is what is left of them.

        What another process computes in the place of this one is computing.
        """
        now = self._ledger.seconds()
        named = {word: round(now[word] - before, 3) for word, before in self._before.items()}
        return {"computing": round(max(0.0, self.seconds - sum(named.values())), 3), **named}


def peak_memory(device: "torch.device") -> dict[str, int]:
    """Return the largest memory in MB that this process has held so far, for a line of metrics.

    On a GPU also what torch held there at most since the last call: with a call at the end of each
    stage, in that stage. A vLLM engine has a process of its own, which is not counted.
    """
    numbers = {"peak_memory_mb": _peak_resident()}
    if device.type == "cuda":
        import torch  # heavy

        if torch.cuda.is_initialized():
            numbers["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) >> 20
            torch.cuda.reset_peak_memory_stats(device)
    return numbers


def resident() -> int:
    """Return the bytes of memory that this process holds now; elsewhere than on Linux, at most."""
    return _of_status("VmRSS") or _peak_resident() << 20


def _peak_resident() -> int:
    # On Linux ru_maxrss outlives exec: that of a child begins at its parent's. VmHWM does not.
    if (peak := _of_status("VmHWM")) is not None:
        return peak >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def _of_status(name: str) -> int | None:
    """Return a number of bytes that Linux tells of this process, None where nothing does."""
    if sys.platform != "linux":
        return None
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    return None if found is None else int(found[1]) << 10
