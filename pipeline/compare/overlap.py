"""How alike rules are: the tokens that they share, and the order in which they rank all."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from scipy import stats

from .scored import ScoredRound


def jaccard(chosen: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the share of common tokens of each pair of rules: a square table.

    chosen: of a round, by rule, as `ScoredRound.chosen` gives it.
    """
    sets = {rule: _keys(frame) for rule, frame in chosen.items()}
    rows = []
    for rule, ours in sets.items():
        common = {other: _share(ours & theirs, ours | theirs) for other, theirs in sets.items()}
        rows.append({"rule": rule, **common})
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(sets, pl.Float64))


def rank_correlation(scored: ScoredRound, rules: Sequence[str]) -> pl.DataFrame:
    """Return Spearman's correlation of importance of each pair of rules, over all tokens."""
    every = scored.importances(rules)
    rows = []
    for rule in rules:
        values = {other: spearman(every[rule], every[other]) for other in rules}
        rows.append({"rule": rule, **values})
    return pl.DataFrame(rows)


def spearman(ours: pl.Series, theirs: pl.Series) -> float:
    """Return the rank correlation, ties at their mean rank; NaN where one side is constant."""
    if ours.n_unique() < 2 or theirs.n_unique() < 2:
        return float("nan")
    found: Any = stats.spearmanr(ours.to_numpy(), theirs.to_numpy())
    return float(found.statistic)


def _share(common: set[Any], all_: set[Any]) -> float | None:
    """Return a share, None where neither rule keeps anything."""
    return len(common) / len(all_) if all_ else None


def _keys(frame: pl.DataFrame) -> set[tuple[int, int]]:
    return set(frame.select("rollout", "position").iter_rows())
