"""How a value is written in a table, and how a table looks: each once, for every page.

Every format of a number writes nothing for None: what was not measured is an empty cell.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ...storage.visible import visible

_OFF_A_TERMINAL = 200  # columns


def screen() -> Console:
    """Return where pages are printed: a terminal of any width, or lines that nothing wraps."""
    console = Console()
    if not console.is_terminal:
        console.width = _OFF_A_TERMINAL
    return console


def count(value: float | None) -> str:
    """Return a count of whole things: `12,345`."""
    if isinstance(value, int):
        return f"{value:,}"  # as a float it may be too large
    return "" if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a measured number: `0.1235`."""
    return "" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share of 1: `12.5%`."""
    return "" if value is None else f"{value:.{digits}%}"


def seconds(value: float | None) -> str:
    """Return a time: `8.5`."""
    return number(value, 1)


def size(value: float | None) -> str:
    """Return an amount of bytes, roughly: `1.2 GB`, of 10^9."""
    return "" if value is None else decimal(round(value))


def print_lines(things: Iterable[Any]) -> None:
    """Print things as JSON, a line each: typed lines, or dicts of plain values."""
    for thing in things:
        values = asdict(thing) if is_dataclass(thing) and not isinstance(thing, type) else thing
        print(json.dumps(values, default=str, ensure_ascii=False))


def cell(value: object) -> str:
    """Return any value of a frame."""
    return number(value, 3) if isinstance(value, float) else "" if value is None else str(value)


def table(
    headings: Sequence[str],
    title: str | None = None,
    *,
    left: Collection[str] = (),
    wrap: bool = True,
) -> Table:
    """Return an empty table of numbers, which keep to the right.

    left: headings of text, which keeps to the left. wrap: whether a cell may take several lines
    where the terminal is narrow.
    """
    shown = None if title is None else plain(title)
    made = _Table(title=shown, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        side = "left" if heading in left else "right"
        made.add_column(plain(heading), justify=side, no_wrap=not wrap, overflow="fold")
    return made


def plain(text: str) -> Text:
    """Return a text that is shown as it is: `[red]` is no colour in it, and `\\x1b` no command."""
    return Text(visible(text))


class _Table(Table):
    """A table whose cells are plain."""

    def add_row(self, *cells: RenderableType | None, **more: Any) -> None:
        """Add a row."""
        super().add_row(*(plain(c) if isinstance(c, str) else c for c in cells), **more)
