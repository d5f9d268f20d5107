"""Values are written alike wherever they stand."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from tip.pipeline.show import cells


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (cells.count(1234567), "1,234,567"),
        (cells.count(0), "0"),
        (cells.count(12.6), "13"),
        (cells.number(0.12345), "0.1235"),
        (cells.number(2.5, 2), "2.50"),
        (cells.percent(0.1256), "12.6%"),
        (cells.percent(1.0, 0), "100%"),
        (cells.seconds(8.46), "8.5"),
        (cells.size(999), "999 bytes"),
        (cells.size(368_123.4), "368.1 kB"),
        (cells.size(3.4e9), "3.4 GB"),
        (cells.cell(0.1256), "0.126"),
        (cells.cell(3), "3"),
        (cells.cell("q3"), "q3"),
        (cells.cell(None), ""),
    ],
)
def test_a_value_is_written_as_people_read_it(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    "write", [cells.count, cells.number, cells.percent, cells.seconds, cells.size]
)
def test_what_was_not_measured_is_an_empty_cell(write: Callable[[None], str]) -> None:
    assert write(None) == ""


def test_numbers_keep_to_the_right_and_text_to_the_left() -> None:
    shown = cells.table(("name", "tokens"), "a title", left=("name",))
    shown.add_row("all", "1")
    shown.add_row("soft_or", "1,000")
    out = io.StringIO()
    Console(file=out, width=40).print(shown)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "a title"
    assert " all           1" in lines
    assert " soft_or   1,000" in lines
