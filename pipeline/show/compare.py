"""The comparison for people: a terminal table, a Markdown page, a Parquet file."""

from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from .cells import cell, count, number, percent, table

RESULTS = ("row", "accuracy", "to all tokens", "to random", "gain kept")
COSTS = ("row", "KL", "to 90 %", "trained", "scored", "reused", "s", "MB", "lost ground")
_TEXT = ("row", "to all tokens", "to random", "to 90 %")
_SHARES = (
    "Gain kept, to 90 %: of what all tokens gained over the student before; empty where that is "
    "not settled, its whole interval above 2 points."
)
_WIDTH = 110  # columns of text where no terminal says how many it has


def write(folder: Path, results: dict[str, pl.DataFrame], about: str) -> Path:
    """Write every table as Parquet, and one page of Markdown with all; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# Comparison\n\n{about}\n"]
    for name, frame in results.items():
        frame.write_parquet(folder / f"{name.replace(' ', '_')}.parquet")
        if name == "rules":
            lines = list(frame.iter_rows(named=True))
            parts.append(_markdown(RESULTS, [_results(line) for line in lines]) + "\n")
            parts.append(_markdown(COSTS, [_costs(line) for line in lines]) + "\n")
            parts.append(_SHARES)
        else:
            rows = [[cell(v) for v in line] for line in frame.iter_rows()]
            parts.append(f"\n## {name}\n\n" + _markdown(frame.columns, rows))
    page = folder / "comparison.md"
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def console() -> Console:
    """Return a console that is wide enough for the tables where it is not a terminal."""
    out = Console()
    return out if out.is_terminal else Console(width=_WIDTH)


def show(frame: pl.DataFrame, console: Console) -> None:
    """Print the rules: what they reach, then what they cost."""
    for title, headings, cells in (
        ("accuracy in points; 95 % intervals, paired by seed", RESULTS, _results),
        (
            "costs: means over seeds; steps to 90 % of all tokens' gain; teacher tokens summed; "
            "seeds that lost what was not trained on",
            COSTS,
            _costs,
        ),
    ):
        shown = table(headings, title, left=_TEXT, wrap=False)
        for line in frame.iter_rows(named=True):
            shown.add_row(*cells(line))
        console.print(shown)
    console.print(_SHARES, markup=False)


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


def _results(line: dict[str, Any]) -> list[str]:
    spread = f" ± {number(line['sd'], 1)}" if line["sd"] is not None else ""
    return [
        line["row"],
        f"{number(line['accuracy'], 1)}{spread}",
        _difference(line, "all"),
        _difference(line, "random"),
        percent(line["gain_kept"], 0),
    ]


def _costs(line: dict[str, Any]) -> list[str]:
    steps = _partly(line) if line["steps_to_90"] is None else count(line["steps_to_90"])
    return [
        line["row"],
        number(line["reverse_kl"]),
        steps,
        count(line["trained_tokens"]),
        count(line["teacher_scored"]),
        count(line["teacher_reused"]),
        count(line["seconds"]),
        _memory(line),
        f"{line['lost_ground']} of {line['seeds']}" if line["lost_ground"] else "",
    ]


def _difference(line: dict[str, Any], to: str) -> str:
    verdict = line[f"verdict_to_{to}"]
    if verdict in (None, "itself"):
        return ""
    mean, low, high = (line[f"{part}_to_{to}"] for part in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f},{high:+.1f}] {verdict}"


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
