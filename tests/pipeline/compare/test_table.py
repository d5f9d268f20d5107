"""The table of a comparison: a line a row, and no share of a gain that is none."""

from typing import Any

import pytest
from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rows import ALL, RANDOM, Row
from tip.pipeline.compare.table import table_of
from tip.pipeline.show.compare import COSTS, _costs


def outcome(row: Row, seed: int, before: float, after: float, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "accuracy": after,
        "reverse_kl": None,
        "trained_tokens": 100,
        "teacher_scored": 10,
        "teacher_reused": 5,
        "seconds": 2.0,
        "peak_memory_mb": 500,
        "peak_gpu_memory_mb": None,
        "lost_ground": False,
        "curve": ((0, before), (8, after)),
    }
    return Outcome(**values | changes)


def test_rows_of_near_budgets_and_values_have_lines_of_their_own() -> None:
    rows = [
        Row(ALL, 1.0),
        Row(RANDOM, 0.12),
        Row(RANDOM, 0.124),
        Row(ALL, 1.0, ("train.lr=0.001",)),
        Row(ALL, 1.0, ("train.lr=0.0001",)),
    ]
    outcomes = [outcome(row, s, 40, 60 + n) for n, row in enumerate(rows) for s in range(3)]
    table = table_of(outcomes, 90.0)
    assert table["accuracy"].to_list() == [40, 90, 60, 61, 62, 63, 64]
    assert table["row"].n_unique() == table.height
    assert table["mean_to_all"].to_list()[2:] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("after", [40.0, 35.0])
def test_without_a_gain_of_all_tokens_there_is_no_share_of_it(after: float) -> None:
    rows = [Row(ALL, 1.0), Row(RANDOM, 0.2)]
    table = table_of([outcome(row, s, 40, after) for row in rows for s in range(3)], None)
    assert table["row"].to_list() == ["student before", "all", "random 20%"]
    for column in ("gain_kept", "steps_to_90", "reached_90"):
        assert table[column].null_count() == table.height


def test_with_a_gain_the_steps_to_most_of_it_are_counted() -> None:
    table = table_of([outcome(Row(ALL, 1.0), s, 40, 60) for s in range(3)], None)
    assert table["steps_to_90"].to_list() == [None, 8]


def test_memory_on_a_gpu_is_told_where_there_was_one() -> None:
    cpu = outcome(Row(ALL, 1.0), 0, 40, 60)
    gpu = outcome(Row(RANDOM, 0.2), 0, 40, 60, peak_gpu_memory_mb=4100)
    cells = [_costs(line)[COSTS.index("MB")] for line in table_of([cpu, gpu], None).to_dicts()]
    assert cells == ["", "500", "500, GPU 4,100"]
