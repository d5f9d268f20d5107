"""The comparison for people: a terminal table, a Markdown page, a Parquet file."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from ..show.cells import cell, count, number, percent, plain, screen, table
from .answer import answer
from .measures import Measure
from .table import Judged

RESULTS = ("row", "lr", "to all tokens", "to random", "gain kept", "to 90 %")
COSTS = ("row", "lr", "trained", "needed", "found", "s", "MB", "lost ground")
_TEXT = ("row", "to all tokens", "to random", "to 90 %")
_SHARES = (
    "Gain kept, steps to 90 %: of what all tokens gained over the student before; empty where that "
    "is not settled, its whole interval beyond what is equal."
)
_COSTS = (
    "costs: means over seeds; teacher tokens summed, all that the runs need and those that were\n"
    "found in the store; seeds that lost what was not trained on"
)
_WIDTH = 110  # columns of text where no terminal says how many it has


def write(
    folder: Path,
    results: Sequence[Judged],
    costs: pl.DataFrame,
    others: dict[str, pl.DataFrame],
    about: str,
) -> Path:
    """Write every table as Parquet, and one page of Markdown with all; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = "\n".join(f"* {text}" for text in map(answer, results) if text)
    parts = [f"# Comparison\n\n{about}\n", *([f"{answers}\n"] if answers else [])]

    def add(name: str, frame: pl.DataFrame, headings: Sequence[str], rows: list[list[str]]) -> None:
        file = re.sub(r"[^\w.%]+", "_", name)
        frame.write_parquet(folder / f"{file}.parquet")
        parts.append(f"## {name}\n\n{_markdown(headings, rows)}\n")

    for judged in results:
        rows = [_results(line, judged.measure) for line in judged.frame.iter_rows(named=True)]
        add(judged.title, judged.frame, _headings(judged.measure), rows)
    parts.append(_SHARES + "\n")
    add("costs", costs, COSTS, [_costs(line) for line in costs.iter_rows(named=True)])
    parts.append(_COSTS + "\n")
    for name, frame in others.items():
        add(name, frame, frame.columns, [[cell(v) for v in line] for line in frame.iter_rows()])
    page = folder / "comparison.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def console() -> Console:
    """Return a console that is wide enough for the tables where it is not a terminal."""
    out = screen()
    return out if out.is_terminal else Console(width=_WIDTH)


def show(results: Sequence[Judged], costs: pl.DataFrame, console: Console) -> None:
    """Print the rows: what they reach by each measure, then what they cost."""
    for judged in results:
        measure = judged.measure
        title = f"{judged.title} in {measure.unit}; 95 % intervals, paired by seed"
        shown = table(_headings(measure), title, left=_TEXT, wrap=False)
        for line in judged.frame.iter_rows(named=True):
            shown.add_row(*_results(line, measure))
        console.print(shown)
    console.print(_SHARES, markup=False)
    shown = table(COSTS, _COSTS, left=_TEXT, wrap=False)
    for line in costs.iter_rows(named=True):
        shown.add_row(*_costs(line))
    console.print(shown)


def show_answers(results: Sequence[Judged], console: Console) -> None:
    """Print what the tables come to."""
    for text in filter(None, map(answer, results)):
        console.print(plain(text), soft_wrap=True)


def show_plain(title: str, frame: pl.DataFrame, console: Console) -> None:
    """Print a table of numbers as it is; one of rules against rules with numbers for headings."""
    names = frame.columns[1:]
    square = len(names) > 1 and frame.to_series(0).to_list() == names
    headings = [frame.columns[0], *(map(str, range(1, len(names) + 1)) if square else names)]
    text = [h for h, column in zip(headings, frame, strict=True) if not column.dtype.is_numeric()]
    shown = table(headings, title, left=text, wrap=not square)
    for place, (name, *values) in enumerate(frame.iter_rows(), 1):
        cells = [number(v, 2) for v in values] if square else [cell(v) for v in values]
        shown.add_row(f"{place} {name}" if square else cell(name), *cells)
    console.print(shown)


def _headings(measure: Measure) -> list[str]:
    return [RESULTS[0], measure.name, *RESULTS[1:]]


def _results(line: dict[str, Any], measure: Measure) -> list[str]:
    spread = "" if line["sd"] is None else f" ± {number(line['sd'], measure.digits)}"
    steps = _partly(line) if line["steps_to_90"] is None else count(line["steps_to_90"])
    return [
        line["row"],
        f"{number(line['value'], measure.digits)}{spread}",
        _rate(line["lr"]),
        _difference(line, "all", measure.digits),
        _difference(line, "random", measure.digits),
        percent(line["gain_kept"], 0),
        steps,
    ]


def _costs(line: dict[str, Any]) -> list[str]:
    return [
        line["row"],
        _rate(line["lr"]),
        count(line["trained_tokens"]),
        count(line["teacher_scored"] + line["teacher_reused"]),
        count(line["teacher_reused"]),
        count(line["seconds"]),
        _memory(line),
        f"{line['lost_ground']} of {line['seeds']}" if line["lost_ground"] else "",
    ]


def _rate(lr: float | None) -> str:
    return "" if lr is None else f"{lr:.3g}"


def _difference(line: dict[str, Any], to: str, digits: int) -> str:
    verdict = line[f"verdict_to_{to}"]
    if verdict in (None, "itself"):
        return ""
    mean, low, high = (line[f"{part}_to_{to}"] for part in ("mean", "low", "high"))
    if not math.isfinite(low):  # one seed knows no spread
        return f"{mean:+.{digits}f} {verdict}"
    return f"{mean:+.{digits}f} [{low:+.{digits}f},{high:+.{digits}f}] {verdict}"


def _partly(line: dict[str, Any]) -> str:
    """Say of how many seeds the 90 % were reached, where it is not all of them."""
    if line["reached_90"] is None:
        return ""
    return f"in {line['reached_90']} of {line['seeds']}"


def _memory(line: dict[str, Any]) -> str:
    on_gpu = line["peak_gpu_memory_mb"]
    return count(line["peak_memory_mb"]) + (f", GPU {count(on_gpu)}" if on_gpu else "")


def _markdown(headings: Any, rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
