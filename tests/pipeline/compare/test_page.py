"""A comparison on paper: what was reached, what it cost, and nothing where nothing is known."""

import io
from pathlib import Path

import polars as pl
from rich.console import Console
from tip.pipeline.compare.measures import MEASURES
from tip.pipeline.compare.page import show, show_plain, write
from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rows import ALL_TOKENS, RANDOM, Row
from tip.pipeline.compare.table import Judged, costs_of, judged

from .outcomes import evaluation, outcome

SQUARE = pl.DataFrame({"rule": ["q3", "soft_or"], "q3": [1.0, 0.25], "soft_or": [0.25, 1.0]})


def outcomes(*afters: float) -> list[Outcome]:
    every = [outcome(ALL_TOKENS, seed, 40, after) for seed, after in enumerate(afters)]
    return every + [outcome(Row(RANDOM, 0.2), seed, 40, 50) for seed in range(len(afters))]


def results(*afters: float) -> tuple[list[Judged], pl.DataFrame]:
    every = outcomes(*afters)
    return [judged(every, MEASURES["accuracy"], evaluation(90))], costs_of(every)


def test_the_page_holds_every_table_and_each_lies_beside_it(tmp_path: Path) -> None:
    (found,), costs = results(59.0, 60.0, 61.0)
    page = write(tmp_path / "new", [found], costs, {"common tokens": SQUARE}, "about it")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Comparison\n\nabout it\n")
    assert "| teacher | 90.0 |  |  |  |  |  |" in text
    assert "| all | 60.0 ± 1.0 | 0.0003 |  |  | 100% | 8 |" in text
    assert (
        "| random 20% | 50.0 ± 0.0 | 0.0003 | -10.0 [-12.5,-7.5] worse |  | 50% | in 0 of 3 |"
        in text
    )
    assert "| random 20% | 0.0003 | 100 | 45 | 15 | 2 | 500 |  |" in text
    assert (
        "## common tokens\n\n| rule | q3 | soft_or |\n|---|---|---|\n| q3 | 1.000 | 0.250 |" in text
    )
    for name, frame in (("accuracy", found.frame), ("costs", costs), ("common_tokens", SQUARE)):
        assert pl.read_parquet(page.with_name(f"{name}.parquet")).equals(frame)


def test_a_share_of_an_unsettled_gain_is_left_empty_and_the_page_says_why(tmp_path: Path) -> None:
    # all tokens gained 0.3 points: what the others gained is no multiple of it
    text = write(tmp_path, *results(40.1, 40.5, 40.3), {}, "").read_text(encoding="utf-8")
    shares = [line.split("|")[-3].strip() for line in text.splitlines() if "± " in line]
    assert shares == ["", ""]
    assert "empty where that is not settled" in text


def test_the_terminal_shows_results_and_costs() -> None:
    out = io.StringIO()
    show(*results(59.0, 60.0, 61.0), Console(file=out, width=110))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "random 20% 50.0 ± 0.0 0.0003 -10.0 [-12.5,-7.5] worse 50% in 0 of 3" in lines
    assert "random 20% 0.0003 100 45 15 2 500" in lines


def test_divergences_have_the_digits_that_they_need() -> None:
    after = [evaluation(0, reverse_kl=kl) for kl in (0.01231, 0.01232, 0.01233)]
    curves = [((0, evaluation(0, reverse_kl=0.5)), (8, each)) for each in after]
    every = [outcome(ALL_TOKENS, s, 0, 0, curve=curve) for s, curve in enumerate(curves)]
    out = io.StringIO()
    measure = MEASURES["reverse_kl"]
    show([judged(every, measure)], costs_of(every), Console(file=out, width=110))
    assert "0.0123 ± 0.0000" in out.getvalue()
    assert "reverse_kl in nats" in out.getvalue()


def test_a_square_table_has_numbers_for_headings() -> None:
    out = io.StringIO()
    show_plain("common tokens", SQUARE, Console(file=out, width=60))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["rule", "1", "2"] in lines
    assert ["2", "soft_or", "0.25", "1.00"] in lines
