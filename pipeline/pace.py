"""How far long work is, how fast it goes and how long it will take: in a bar, and as a line."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ..stages.engines.protocols import Spared, Tick


class Pace:
    """How far some work is, how fast it goes, how long it will take still.

    total: in units. What took no work counts for no rate: what was found, and of responses that
    ended before their limit the rest.
    """

    def __init__(self, total: int, unit: str) -> None:
        """Begin now."""
        self.total, self.unit = total, unit
        self.done = self._worked = self._before = 0
        self._began, self._first = time.monotonic(), 0.0

    def add(self, count: int) -> None:
        """Count what is newly done; what is taken back is below 0."""
        self.done += count
        if isinstance(count, Spared):
            return
        if not self._first:  # when it came is not when it was begun: models were loaded before
            self._first, self._before = time.monotonic(), self.done
        else:
            self._worked += count

    @property
    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float | None:
        """Return units by second, None before there is any."""
        seconds = time.monotonic() - self._first
        return self._worked / seconds if self._first and self._worked > 0 and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Return the seconds that it will take at this pace, None before it is known."""
        new, seconds = self.done - self._before, time.monotonic() - self._first
        return (self.total - self.done) * seconds / new if self._first and new > 0 else None

    @property
    def far(self) -> str:
        """Return how far it is: a share of tokens, which a limit counts, else a count."""
        if self.unit == "tokens":
            return f"{self.done / self.total:.0%}"
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def speed(self) -> str:
        """Return the rate for people; of what takes seconds apiece, seconds."""
        rate = self.rate
        if rate is None:
            return ""
        one = self.unit.removesuffix("s")
        return f"{rate:,.0f} {self.unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s a {one}"

    def __str__(self) -> str:
        """Return all of it on one line."""
        left = self.left
        parts = [self.far, self.speed, "" if left is None else f"about {clock(left)} left"]
        return ", ".join(part for part in parts if part)


def new_bar(console: Console, *, transient: bool = False) -> Progress:
    """Return a bar that shows what for, how far, how fast, how long still."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Pace())
    return Progress(*columns, console=console, transient=transient)


def moving(progress: Progress, title: str, pace: Pace) -> Tick:
    """Return what moves a new task of a bar."""
    task = progress.add_task(title, total=pace.total, pace=pace)

    def tick(count: int) -> None:
        pace.add(count)
        progress.advance(task, count)

    return tick


class _Pace(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return e.g. `43%, 1,200 tokens/s, about 0:00:12 left`."""
        return Text(str(task.fields["pace"]))


def clock(seconds: float) -> str:
    """Return a time for people, to the second."""
    return str(timedelta(seconds=round(seconds)))
