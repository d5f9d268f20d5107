"""The folder that a comparison wrote: its tables as printed, and the differences to plot."""

import re
from pathlib import Path
from typing import Any

import polars as pl

from ...storage.errors import StoreError
from ..compare.measures import MEASURES, Measure

PAGE = "comparison.md"
"""What a comparison's folder holds; see `compare/page.py`."""
_BASELINES = {"all": "all tokens", "random": "random tokens"}


def is_comparison(folder: Path) -> bool:
    """Tell whether a folder is one that `tip compare` wrote."""
    return (folder / PAGE).is_file()


def comparison_of(folder: Path) -> dict[str, Any]:
    """Return a comparison as the page reads it. Raises `StoreError` for a folder that is damaged.

    `tables`: title, headings, rows of text, which columns are numbers, and of what was judged the
    differences to each baseline with their 95 % intervals.
    """
    try:
        text = (folder / PAGE).read_text("utf-8")
        head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        return {
            "name": folder.name,
            "about": " ".join(head.replace("*", "").split()[2:]),
            "tables": [table for section in sections for table in _table(folder, section)],
        }
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{folder}: its comparison cannot be read ({' '.join(str(error).split())}); run "
            "`tip compare` again, what it played is found"
        ) from error


def _table(folder: Path, section: str) -> list[dict[str, Any]]:
    title, _, rest = section.partition("\n")
    lines = [line for line in rest.splitlines() if line.startswith("|")]
    if len(lines) < 3:  # headings and a rule alone
        return []
    headings, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(headings))]
    file = folder / (re.sub(r"[^\w.%]+", "_", title) + ".parquet")
    return [
        {
            "title": title,
            "headings": headings,
            "rows": rows,
            "numeric": numeric,
            "forests": _forests(title, file),
        }
    ]


def _is_number(cell: str) -> bool:
    return cell == "" or re.fullmatch(r"[-+]?[\d.,]+%?( ± [\d.,]+)?", cell) is not None


def _forests(title: str, file: Path) -> list[dict[str, Any]]:
    """Return the differences of a table of results, none of another table."""
    measure = MEASURES.get(title.partition(",")[0])
    if measure is None or not file.is_file():
        return []
    frame = pl.read_parquet(file)
    return [
        forest
        for to, words in _BASELINES.items()
        if f"verdict_to_{to}" in frame.columns and (forest := _forest(frame, to, words, measure))
    ]


def _forest(frame: pl.DataFrame, to: str, words: str, measure: Measure) -> dict[str, Any] | None:
    names = {f"{name}_to_{to}": name for name in ("mean", "low", "high", "verdict")}
    found = frame.filter(
        pl.col(f"verdict_to_{to}").is_not_null() & (pl.col(f"verdict_to_{to}") != "itself")
    )
    lines = found.select("row", *(pl.col(old).alias(new) for old, new in names.items())).to_dicts()
    better = "more" if measure.more_is_better else "less"
    return {"to": words, "unit": measure.unit, "better": better, "lines": lines} if lines else None
