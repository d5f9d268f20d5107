"""The comparison for people: a terminal table, a Markdown page, a Parquet file."""

from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

RESULTS = ("row", "accuracy", "to all tokens", "to random", "gain kept")
COSTS = ("row", "KL", "to 90 %", "trained", "scored", "reused", "s", "MB", "lost ground")
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
            parts.append(_markdown(COSTS, [_costs(line) for line in lines]))
        else:
            rows = [[_plain(v) for v in line] for line in frame.iter_rows()]
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
        table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in headings:
            left = heading == "row" or heading.startswith("to ")
            table.add_column(heading, justify="left" if left else "right", no_wrap=True)
        for line in frame.iter_rows(named=True):
            table.add_row(*cells(line))
        console.print(table)


def show_plain(title: str, frame: pl.DataFrame, console: Console) -> None:
    """Print a table of numbers as it is; one of rules against rules with numbers for headings."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = frame.columns[1:]
    square = len(names) > 1 and frame.to_series(0).to_list() == names
    for place, column in enumerate(frame.columns):
        heading = str(place) if square and place else column
        numeric = frame[column].dtype.is_numeric()
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=square)
    for place, (name, *values) in enumerate(frame.iter_rows(), 1):
        cells = [f"{v:.2f}" for v in values] if square else [_plain(v) for v in values]
        table.add_row(f"{place} {name}" if square else _plain(name), *cells)
    console.print(table)


def _results(line: dict[str, Any]) -> list[str]:
    spread = f" ± {line['sd']:.1f}" if line.get("sd") is not None else ""
    kept = line.get("gain_kept")
    return [
        line["row"],
        f"{line['accuracy']:.1f}{spread}",
        _difference(line, "all"),
        _difference(line, "random"),
        "" if kept is None else f"{kept:.0%}",
    ]


def _costs(line: dict[str, Any]) -> list[str]:
    reached, divergence = line.get("steps_to_90"), line.get("reverse_kl")
    return [
        line["row"],
        "" if divergence is None else f"{divergence:.4f}",
        f"{reached:.0f}" if reached is not None else _partly(line),
        *(
            _count(line.get(name))
            for name in (
                "trained_tokens",
                "teacher_scored",
                "teacher_reused",
                "seconds",
            )
        ),
        _memory(line),
        f"{line['lost_ground']} of {line['seeds']}" if line.get("lost_ground") else "",
    ]


def _difference(line: dict[str, Any], to: str) -> str:
    verdict = line.get(f"verdict_to_{to}")
    if verdict in (None, "itself"):
        return ""
    mean, low, high = (line[f"{part}_to_{to}"] for part in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f},{high:+.1f}] {verdict}"


def _partly(line: dict[str, Any]) -> str:
    """Say of how many seeds the 90 % were reached, where it is not all of them."""
    if line.get("reached_90") is None:
        return ""
    return f"in {line['reached_90']} of {line['seeds']}"


def _memory(line: dict[str, Any]) -> str:
    on_gpu = line.get("peak_gpu_memory_mb")
    return _count(line.get("peak_memory_mb")) + (f", GPU {on_gpu:,}" if on_gpu else "")


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _plain(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def _markdown(headings: Any, rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
