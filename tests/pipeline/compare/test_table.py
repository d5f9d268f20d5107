"""The tables of a comparison: a line a row, no share of a gain that is none, nothing empty."""

from typing import Any

import pytest
from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rows import ALL, ALL_TOKENS, NO_REFRESH, RANDOM, Row
from tip.pipeline.compare.table import settled_gain, table_of, tables_of
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.compare import COSTS, _costs

from ..conftest import MakeConfig


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


@pytest.mark.parametrize(
    "afters",
    [
        (40.0, 40.0, 40.0),  # nothing gained
        (35.0, 34.0, 36.0),  # lost
        (40.1, 40.3, 40.5),  # certain, and matters to nobody
        (40.1, 47.0, 39.0),  # maybe much, maybe nothing
        (41.2, 43.3, 43.8),  # certain, but maybe of a size that matters to nobody
        (60.0, 61.0),  # too few seeds
        (60.0, 60.0, 60.0),  # without a spread nothing tells of the next seed
    ],
)
def test_without_a_settled_gain_of_all_tokens_there_is_no_share_of_it(
    afters: tuple[float, ...],
) -> None:
    outcomes = [outcome(ALL_TOKENS, s, 40, after) for s, after in enumerate(afters)]
    outcomes += [outcome(Row(RANDOM, 0.2), s, 40, 90) for s in range(len(afters))]
    table = table_of(outcomes, None)
    assert table["row"].to_list() == ["student before", "all", "random 20%"]
    for column in ("gain_kept", "steps_to_90", "reached_90"):
        assert table[column].null_count() == table.height


def test_a_settled_gain_is_shared_out_and_the_steps_to_most_of_it_are_counted() -> None:
    outcomes = [outcome(ALL_TOKENS, s, 40, 59 + s) for s in range(3)]
    outcomes += [outcome(Row(RANDOM, 0.2), s, 40, 50) for s in range(3)]
    table = table_of(outcomes, None)
    assert table["gain_kept"].to_list() == [None, 1.0, 0.5]
    assert table["steps_to_90"].to_list() == [None, 8, None]
    assert table["reached_90"].to_list() == [None, 3, 0]


def test_a_gain_is_paired_by_seed() -> None:
    befores, afters = [20.0, 40.0, 60.0], [29.0, 50.0, 71.0]
    assert settled_gain(befores, afters) == pytest.approx(10)
    assert settled_gain(befores, afters[::-1]) is None


def test_no_refresh_is_compared_with_all_tokens_and_not_with_random() -> None:
    rows = [ALL_TOKENS, NO_REFRESH, Row(RANDOM, 1.0), Row("q3", 1.0)]
    outcomes = [outcome(row, s, 40, 60 + n + s) for n, row in enumerate(rows) for s in range(3)]
    lines = {line["row"]: line for line in table_of(outcomes, None).to_dicts()}
    refreshed = {name: line["refresh"] for name, line in lines.items() if line["rule"]}
    assert refreshed == {"all": True, "no refresh": False, "random 100%": True, "q3 100%": True}
    assert lines["no refresh"]["mean_to_all"] == 1
    assert lines["no refresh"]["mean_to_random"] is None
    assert lines["q3 100%"]["mean_to_random"] == 1


def test_a_table_that_says_nothing_is_left_out(config: MakeConfig) -> None:
    session = open_session(config(rounds=1, rollout={"prompts": 32}))
    play(session)

    def names(*rules: str) -> list[str]:
        rows = [ALL_TOKENS, Row(RANDOM, 0.2), *(Row(rule, 0.2) for rule in rules)]
        return list(
            tables_of(
                [outcome(row, 0, 40, 60) for row in rows], None, session, session.config.select, 2
            )
        )

    assert names() == ["rules", "where the types lie"]
    overlap = "common tokens at 20%"
    assert names("q3") == ["rules", overlap, "where the types lie", "oracle"]
    ranks = "rank correlation of importance"
    assert names("q3", "soft_or") == ["rules", overlap, ranks, "where the types lie", "oracle"]


def test_memory_on_a_gpu_is_told_where_there_was_one() -> None:
    cpu = outcome(Row(ALL, 1.0), 0, 40, 60)
    gpu = outcome(Row(RANDOM, 0.2), 0, 40, 60, peak_gpu_memory_mb=4100)
    cells = [_costs(line)[COSTS.index("MB")] for line in table_of([cpu, gpu], None).to_dicts()]
    assert cells == ["", "500", "500, GPU 4,100"]
