"""The rows of `make bench-gpu` as they are read: on the screen, and in docs/PERFORMANCE.md."""

from typing import Any

UNMEASURED = "not measured"


def show(found: dict[str, Any]) -> None:
    """Print a table of all rows, and the lines of the table in docs/PERFORMANCE.md."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 160)
    table = Table(title=f"{found['card']}, torch {found['torch']}, {found['date']}")
    for name in ("part", "work", "at", "median (range)", "x", "of", "wanted", "MB", "note"):
        table.add_column(name, overflow="fold")
    for row in found["rows"]:
        style = "red" if row["failed"] else "yellow" if row["met"] is False else None
        memory = "" if row["rise_mb"] is None else f"{row['rise_mb']:,.0f}"
        table.add_row(
            row["part"],
            row["work"],
            row["at"],
            value(row),
            "" if row["ratio"] is None else f"{row['ratio']:.3g}",
            row["baseline"],
            wanted(row),
            memory,
            row["note"],
            style=style,
        )
    console.print(table)
    print("\n".join(markdown(found["rows"])))


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table in docs/PERFORMANCE.md, a row each."""
    lines = ["| part | work | before | wanted | now |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row["part"], row["work"], row["before"], wanted(row), now(row))
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return lines


def value(row: dict[str, Any]) -> str:
    """Return a median with its unit and its range."""
    if row["value"] is None:
        return ""
    middle = f"{number(row['value'])} {row['unit']}".rstrip()
    if row["low"] == row["high"]:
        return middle
    return f"{middle} ({number(row['low'])} to {number(row['high'])})"


def number(value: float) -> str:
    """Return a number with three digits, and all of those before its point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def wanted(row: dict[str, Any]) -> str:
    """Return all that is wanted of a row."""
    ratio = row["wanted"]
    if ratio and len(ratio.split()) == 2:
        ratio += " x"
    memory = "" if row["most_mb"] is None else f"<= {row['most_mb']:,.0f} MB"
    return "; ".join(filter(None, (ratio, memory)))


def now(row: dict[str, Any]) -> str:
    """Return what was measured, or why nothing was."""
    if row["failed"] or row["value"] is None:
        return row["note"]
    found = [value(row)]
    if row["ratio"] is not None:
        found.append(f"{row['ratio']:.3g} x")
    text = ", ".join(found)
    return text if row["rise_mb"] is None else f"{text}; + {row['rise_mb']:,.0f} MB"
