"""A run that goes on, in one calm screen: its rounds, the stage at work, how long it will take.

Below what stays (notes, warnings) a terminal shows the last rounds' numbers, a bar with rate and
time left, and the last lines of the stages. Off a terminal every line is written as it comes.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from ...stages.engines.protocols import Tick
from ...storage.runs import RunFolder
from ...storage.visible import visible
from ..metrics import by_round
from ..pace import Pace, clock, moving, new_bar
from ..progress import Reporter
from .cells import plain, table
from .status import ROUND, cells_of
from .views import RoundLine, round_lines

_ROUNDS, _LINES = 6, 4  # shown, the last ones
_STAYS = ("note", "warning")
_FRAMES = 4  # a second


class Screen(Reporter):
    """A reporter that holds one screen while a run is played."""

    def __init__(self, run: RunFolder, rounds: int, console: Console | None = None) -> None:
        """Show a run of so many rounds, on standard error."""
        super().__init__(console)
        self._run, self._rounds = run, rounds
        self._began, self._tail = time.monotonic(), deque[str](maxlen=_LINES)
        self._live: Live | None = None
        self._known: tuple[int, list[RoundLine]] = (0, [])
        self._found = 0  # rounds that an earlier start has played
        self._progress: Progress | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the screen while the block runs; afterwards it is gone, and what stays stays."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._screen,
            console=self.console,
            refresh_per_second=_FRAMES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            self._live, self._found = live, len(self._trained())
            try:
                yield
            finally:
                self._live = None

    def say(self, text: str) -> None:
        """Show a line: in the screen, and above it where it is to stay."""
        if self._live is None:
            super().say(text)
            return
        if any(word in text.split()[:3] or text.startswith(f"{word}:") for word in _STAYS):
            super().say(text)
        self._tail.append(text)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        """Show a bar in the screen while the block runs."""
        if self._live is None or total <= 0:
            with super().bar(title, total, unit) as tick:
                yield tick
            return
        progress, before = new_bar(self.console), self._progress
        self._progress = progress
        try:
            yield moving(progress, title, Pace(total, unit))
        finally:
            self._progress = before

    def _lines(self) -> list[RoundLine]:
        """Return the rounds' lines; folded again only where metrics have come since."""
        metrics = self._run.metrics()
        if len(metrics) != self._known[0]:
            self._known = len(metrics), round_lines(by_round(metrics))
        return self._known[1]

    def _trained(self) -> list[RoundLine]:
        return [line for line in self._lines() if line.trained_tokens is not None]

    def _screen(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._head(), style="bold")]
        if lines := self._lines():
            shown = table(ROUND)
            for line in lines[-_ROUNDS:]:
                shown.add_row(*cells_of(line))
            parts.append(shown)
        parts += [plain(visible(line)) for line in self._tail]
        if self._progress is not None:
            parts.append(self._progress)
        return Group(*parts)

    def _head(self) -> str:
        elapsed = time.monotonic() - self._began
        whole = self._trained()
        played = whole[self._found :]  # a round that is found takes no time
        left = self._rounds - len(whole)
        head = f"{self._run.name}: {len(whole)} of {self._rounds} rounds, {clock(elapsed)}"
        if played and left > 0:
            seconds = sum(line.seconds for line in played) / len(played) * left
            head += f", about {clock(seconds)} left"
        return f"{head}; Ctrl-C stops, the same command continues"
