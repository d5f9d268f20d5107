"""A comparison on paper: what was reached, what it cost, and nothing where nothing is known."""

import io
from pathlib import Path

import polars as pl
from rich.console import Console
from tip.pipeline.compare.rows import ALL_TOKENS, RANDOM, Row
from tip.pipeline.compare.table import table_of
from tip.pipeline.show.compare import show, show_plain, write

from ..compare.test_table import outcome

SQUARE = pl.DataFrame({"rule": ["q3", "soft_or"], "q3": [1.0, 0.25], "soft_or": [0.25, 1.0]})


def compared(*afters: float) -> pl.DataFrame:
    outcomes = [outcome(ALL_TOKENS, seed, 40, after) for seed, after in enumerate(afters)]
    outcomes += [outcome(Row(RANDOM, 0.2), seed, 40, 50) for seed in range(len(afters))]
    return table_of(outcomes, 90.0)


def test_the_page_holds_every_table_and_each_lies_beside_it(tmp_path: Path) -> None:
    frame = compared(59.0, 60.0, 61.0)
    page = write(tmp_path / "new", {"rules": frame, "common tokens": SQUARE}, "about it")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Comparison\n\nabout it\n")
    assert "| all | 60.0 ± 1.0 |  |  | 100% |" in text
    assert "| random 20% | 50.0 ± 0.0 | -10.0 [-12.5,-7.5] worse |  | 50% |" in text
    assert "| random 20% |  | in 0 of 3 | 100 | 30 | 15 | 2 | 500 |  |" in text
    assert (
        "## common tokens\n\n| rule | q3 | soft_or |\n|---|---|---|\n| q3 | 1.000 | 0.250 |" in text
    )
    assert pl.read_parquet(page.with_name("rules.parquet")).equals(frame)
    assert pl.read_parquet(page.with_name("common_tokens.parquet")).equals(SQUARE)


def test_a_share_of_an_unsettled_gain_is_left_empty_and_the_page_says_why(tmp_path: Path) -> None:
    # all tokens gained 0.3 points: what the others gained is no multiple of it
    text = write(tmp_path, {"rules": compared(40.1, 40.5, 40.3)}, "").read_text(encoding="utf-8")
    shares = [line.split("|")[-2].strip() for line in text.splitlines() if "± " in line]
    assert shares == ["", ""]
    assert "empty where that is not settled" in text


def test_the_terminal_shows_both_tables_of_rules() -> None:
    out = io.StringIO()
    show(compared(59.0, 60.0, 61.0), Console(file=out, width=110))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["random", "20%", "50.0", "±", "0.0", "-10.0", "[-12.5,-7.5]", "worse", "50%"] in lines
    assert ["random", "20%", "in", "0", "of", "3", "100", "30", "15", "2", "500"] in lines


def test_a_square_table_has_numbers_for_headings() -> None:
    out = io.StringIO()
    show_plain("common tokens", SQUARE, Console(file=out, width=60))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["rule", "1", "2"] in lines
    assert ["2", "soft_or", "0.25", "1.00"] in lines
