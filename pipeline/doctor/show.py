"""`tip doctor`: a line a check, when it has been made."""

import sys
from collections import Counter
from contextlib import nullcontext

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config.run import RunConfig
from ..show.cells import plain, print_lines
from .doctor import NAMES, Finding, examine

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "-": "dim"}
_ONE_LINE = 100_000  # columns of what goes to a file or a pipe


def examine_and_show(
    config: RunConfig, *, load: bool, console: Console | None = None, as_json: bool = False
) -> bool:
    """Print what each check comes to; return whether none has failed."""
    if as_json:
        findings = list(examine(config, load=load))
        print_lines(findings)
        return all(finding.verdict != "fail" for finding in findings)
    width = None if sys.stdout.isatty() else _ONE_LINE
    console = console or Console(highlight=False, width=width)
    counts: Counter[str] = Counter()
    with console.status("looking") if console.is_terminal else nullcontext():
        for finding in examine(config, load=load):
            counts[finding.verdict] += 1
            console.print(_line(finding))
    words = {"ok": "ok", "warn": "to look at", "fail": "failed", "-": "not looked at"}
    console.print(", ".join(f"{counts[v]} {words[v]}" for v in words if counts[v]))
    return not counts["fail"]


def _line(finding: Finding) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=4)
    line.add_column(width=max(map(len, NAMES)), no_wrap=True)
    line.add_column()
    verdict = Text(finding.verdict, style=_COLOURS[finding.verdict])
    line.add_row(verdict, plain(finding.name), plain(finding.text))
    return line
