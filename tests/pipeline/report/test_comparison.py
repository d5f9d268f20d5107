"""The folder of a comparison as the page reads it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tip.pipeline.compare.measures import MEASURES
from tip.pipeline.compare.page import write
from tip.pipeline.compare.table import Judged
from tip.pipeline.progress import Reporter
from tip.pipeline.report.command import Request, page_of
from tip.pipeline.report.comparison import comparison_of
from tip.storage.errors import StoreError


def line(row: str, value: float, **differences: Any) -> dict[str, Any]:
    empty = {
        f"{name}_to_{to}": None
        for to in ("all", "random")
        for name in ("mean", "low", "high", "verdict")
    }
    own = {"row": row, "value": value, "sd": 0.01, "lr": 1e-3, "seeds": 3}
    return own | {"gain_kept": None, "steps_to_90": None, "reached_90": None} | empty | differences


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    judged = pl.DataFrame(
        [
            line("all", 0.2, verdict_to_all="itself"),
            line("q3 10%", 0.15, mean_to_all=-0.05, low_to_all=-0.06, high_to_all=-0.04)
            | {"verdict_to_all": "better"},
            line("<b>mine</b>.sql 10%", 0.3, mean_to_all=0.1, low_to_all=float("-inf"))
            | {"high_to_all": float("inf"), "verdict_to_all": "unsettled"},
        ],
        infer_schema_length=None,
    )
    costs = pl.DataFrame(
        {
            "row": ["all"],
            "seeds": [3],
            "lr": [1e-3],
            "trained_tokens": [10.0],
            "teacher_scored": [5],
            "teacher_reused": [0],
            "seconds": [1.0],
            "peak_memory_mb": [100],
            "peak_gpu_memory_mb": [None],
            "lost_ground": [0],
        }
    )
    place = tmp_path / "c-compare"
    other = {"where the types lie": pl.DataFrame({"type": ["Q1"], "share": [0.5]})}
    write(place, [Judged(MEASURES["reverse_kl"], "", judged)], costs, other, "3 rows x 3 seeds.")
    return place


def test_tables_are_those_that_were_printed_and_differences_have_intervals(folder: Path) -> None:
    found = comparison_of(folder)
    assert found["about"] == "3 rows x 3 seeds."
    titles = [table["title"] for table in found["tables"]]
    assert titles == ["reverse_kl", "costs", "where the types lie"]
    first = found["tables"][0]
    assert first["rows"][1][:2] == ["q3 10%", "0.1500 ± 0.0100"]
    (forest,) = first["forests"]
    assert (forest["to"], forest["unit"], forest["better"]) == ("all tokens", "nats", "less")
    lines = [(each["row"], each["mean"], each["verdict"]) for each in forest["lines"]]
    assert lines == [("q3 10%", -0.05, "better"), ("<b>mine</b>.sql 10%", 0.1, "unsettled")]


def test_a_comparison_is_named_by_its_folder_or_among_the_runs(folder: Path) -> None:
    quiet = Reporter(quiet=True)
    by_path = page_of(Request((str(folder),), "nowhere"), quiet)
    by_name = page_of(Request((folder.name,), str(folder.parent)), quiet)
    for page in (by_path, by_name):
        assert '"comparisons":[{"name":"c-compare"' in page
        assert "<b>mine</b>" not in page


def test_a_damaged_folder_is_named(folder: Path) -> None:
    (folder / "reverse_kl.parquet").write_bytes(b"no parquet")
    with pytest.raises(StoreError, match="c-compare: its comparison cannot be read"):
        comparison_of(folder)


def test_intervals_are_drawn_and_names_are_text(folder: Path, opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_of(Request((str(folder),), "nowhere"), Reporter(quiet=True)))
    look = opened()
    page = look.open(path.as_uri())
    page.wait_for_selector("#comparisons .mean.better")
    assert page.locator(".whisker").count() == 2
    assert page.locator(".whisker[stroke-dasharray]").count() == 1  # without an end
    assert "<b>mine</b>.sql 10%" in page.locator("#comparisons svg").first.text_content()
    assert page.locator("#comparisons b").count() == 0
    assert look.said == []
