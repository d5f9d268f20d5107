"""Counts over all tokens of a run, by DuckDB: the plane, intervals, places and lengths by round."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ...storage.queries import (
    add_rollouts_view,
    add_view,
    locked_connection,
    one_row,
    set_variables,
)
from .pack import packed
from .source import Source

# Nats from which the axes turn from linear to logarithmic: most tokens lie near 0, and those that
# matter up to a hundred times farther.
SCALE = 0.02
BINS = (72, 48)
"""Of student entropy, of reverse KL."""
MOST_PLANES = 40
"""Rounds that have a plane of their own; more would make a long run's page heavy."""
_NO_SELECTION = (
    "CREATE VIEW selection AS SELECT 0::INTEGER AS round, 0::BIGINT AS rollout, "
    "0::INTEGER AS position WHERE false"
)


def counted(source: Source) -> dict[str, Any] | None:
    """Return what the page shows of all tokens of a run; None where no round is scored.

    `plane`: by round the occupied cells, their tokens and their chosen tokens. `kl`: means with
    95 % intervals. `places`: by round and type, tokens and chosen ones of each tenth. `ends`:
    lengths and stop reasons.
    """
    rounds = source.scored
    if not rounds:
        return None
    tables = {kind: source.paths(kind, rounds) for kind in ("tokens", "rollouts", "selection")}
    files = chain.from_iterable(chain.from_iterable(of.values()) for of in tables.values())
    with locked_connection(files, threads=source.config.threads) as connection:
        add_view(connection, "tokens", tables["tokens"])
        add_rollouts_view(connection, "rollouts", tables["rollouts"])
        if tables["selection"]:
            add_view(connection, "selection", tables["selection"])
        else:
            connection.execute(_NO_SELECTION)
        ends = _bind(connection, source, rounds)
        connection.execute(Path(__file__).with_name("plane.sql").read_text("utf-8"))
        return {
            "scale": SCALE,
            "bins": BINS,
            "ends": ends,
            "cuts": {n: cuts_of(source, n) for n in rounds},
            "rounds": _planes(connection, spread(rounds, MOST_PLANES)),
            "kl": _columns(connection, "intervals"),
            "places": _places(connection),
            "lengths": _columns(connection, "ends"),
        }


def cuts_of(source: Source, number: int) -> tuple[float, float]:
    """Return the borders of the types in a round: entropy and reverse KL, nats.

    Those that its selection took; as the config has them where nothing was selected yet.
    """
    metrics = source.metrics.get(number)
    cuts = None if metrics is None or metrics.select is None else metrics.select.cuts
    select = source.config.select
    if not cuts:
        return select.entropy_cut, select.divergence_cut
    return cuts["entropy_cut"], cuts["divergence_cut"]


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return so many of some numbers at most, evenly, the first and the last among them."""
    if len(numbers) <= most:
        return list(numbers)
    places = np.linspace(0, len(numbers) - 1, most).round().astype(int)
    return [numbers[place] for place in dict.fromkeys(places.tolist())]


def _bind(
    connection: duckdb.DuckDBPyConnection, source: Source, rounds: Sequence[int]
) -> tuple[float, float]:
    """Bind what plane.sql needs; return the ends of the axes in nats."""
    largest = one_row(
        connection, "SELECT max(student_entropy), max(reverse_kl) FROM tokens WHERE trainable"
    )
    ends = tuple(max(1.0, float(np.ceil(10 * (value or 0)) / 10)) for value in largest)
    names = ("scale", "entropy_bins", "divergence_bins", "entropy_end", "divergence_end")
    set_variables(connection, dict(zip(names, (SCALE, *BINS, *ends), strict=True)))
    connection.execute(
        "CREATE TEMP TABLE cuts (round INTEGER, entropy_cut DOUBLE, divergence_cut DOUBLE)"
    )
    rows = [(number, *cuts_of(source, number)) for number in rounds]
    connection.executemany("INSERT INTO cuts VALUES (?, ?, ?)", rows)
    return ends[0], ends[1]


def _planes(connection: duckdb.DuckDBPyConnection, rounds: Sequence[int]) -> dict[int, Any]:
    found = connection.sql("SELECT * FROM plane").fetchnumpy()
    planes = {}
    for number in rounds:
        here = found["round"] == number
        planes[number] = {
            "cell": packed(found["cell"][here], "u2"),
            "tokens": packed(found["tokens"][here], "u4"),
            "chosen": packed(found["chosen"][here], "u4"),
        }
    return planes


def _places(connection: duckdb.DuckDBPyConnection) -> dict[int, Any]:
    """Return by round [4][10] tokens and chosen tokens of each type and tenth of a response."""
    found: dict[int, np.ndarray] = {}
    for number, tenth, kind, tokens, chosen in connection.execute(
        "SELECT round, tenth, type, tokens, chosen FROM places"
    ).fetchall():
        of_round = found.setdefault(number, np.zeros((2, 4, 10), dtype=np.int64))
        of_round[:, kind - 1, tenth] = tokens, chosen
    return {n: {"tokens": of[0].tolist(), "chosen": of[1].tolist()} for n, of in found.items()}


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, list[Any]]:
    table = connection.sql(f"SELECT * FROM {view}").to_arrow_table()
    return {name: table[name].to_pylist() for name in table.column_names}
