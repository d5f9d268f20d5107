"""The SQL behind the plane, on tokens whose numbers are known."""

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from tip.pipeline.report import plane

ROUNDS, ROLLOUTS = 200, 40


@pytest.fixture(scope="module")
def counted() -> duckdb.DuckDBPyConnection:
    """Return 200 rounds whose tokens have a mean reverse KL of 1, tokens of one rollout alike."""
    random = np.random.default_rng(5)
    frames = []
    for number in range(ROUNDS):
        lengths = random.integers(5, 60, ROLLOUTS)
        rollout = np.repeat(np.arange(ROLLOUTS), lengths)
        level = random.gamma(2.0, 0.5, ROLLOUTS)[rollout]
        frames.append(
            pl.DataFrame(
                {
                    "round": np.full(len(rollout), number),
                    "rollout": rollout,
                    "position": np.concatenate([np.arange(n) for n in lengths]),
                    "reverse_kl": level * random.exponential(1.0, len(rollout)),
                    "student_entropy": random.exponential(0.3, len(rollout)),
                    "trainable": np.ones(len(rollout), dtype=bool),
                }
            )
        )
    tokens = pl.concat(frames).to_arrow()
    connection = duckdb.connect()
    connection.register("tokens", tokens)
    connection.execute(
        "CREATE TABLE rollouts AS SELECT round, rollout, count(*) AS length, 'stop' AS stop_reason "
        "FROM tokens GROUP BY ALL"
    )
    connection.execute("CREATE TABLE selection AS SELECT * FROM tokens WHERE reverse_kl > 2")
    connection.execute(
        "CREATE TABLE cuts AS SELECT DISTINCT round, 0.3 AS entropy_cut, 0.1 AS divergence_cut "
        "FROM tokens"
    )
    ends = {"entropy_end": 5.0, "divergence_end": 40.0}
    bins = dict(zip(("entropy_bins", "divergence_bins"), plane.BINS, strict=True))
    for name, value in {"scale": plane.SCALE, **ends, **bins}.items():
        connection.execute(f"SET VARIABLE {name} = {value}")
    connection.execute(Path(plane.__file__).with_name("plane.sql").read_text("utf-8"))
    return connection


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says(
    counted: duckdb.DuckDBPyConnection,
) -> None:
    (hits,) = counted.execute(
        "SELECT count(*) FILTER (abs(divergence - 1) <= half) FROM intervals"
    ).fetchall()[0]
    # Of 200 at 95 %: 190 are expected; with 40 rollouts a normal interval holds some 93 %. Fewer
    # than 175 or all of them come less than once in 10,000 times of an interval that is right.
    assert 175 <= hits < 200


def test_tokens_taken_for_independent_would_promise_too_much(
    counted: duckdb.DuckDBPyConnection,
) -> None:
    wide, narrow = counted.execute(
        "SELECT avg(half), avg(alone) FROM intervals JOIN (SELECT round, "
        "1.96 * stddev(divergence) / sqrt(count(*)) AS alone FROM numbers GROUP BY round) "
        "USING (round)"
    ).fetchall()[0]
    assert wide > 2 * narrow


def test_cells_lie_where_their_numbers_are(counted: duckdb.DuckDBPyConnection) -> None:
    (low, high) = counted.execute(
        "SELECT bin(0.02, 5.0, 72), bin(5.0, 5.0, 72)"  # the scale's own place; the end itself
    ).fetchall()[0]
    assert low == int(72 * np.log(2) / np.log(1 + 5 / 0.02))
    assert high == 71
    (total,) = counted.execute("SELECT sum(tokens) FROM plane").fetchall()[0]
    assert total == counted.execute("SELECT count(*) FROM tokens").fetchall()[0][0]
