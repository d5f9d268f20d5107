"""Paired comparison over seeds: what may be concluded of a difference, and what may not.

The unit is the seed: runs of one seed share prompts, noise and the first rollouts, so their
difference is free of what they share; different seeds share nothing but the models.

Accuracies are counts of a few problems, so a few seeds may all show the same difference by chance.
Such a spread of zero says nothing of how far the next seed would lie: it is no evidence, and never
certainty. Nor do two seeds settle anything: all that is known of the spread is one number.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

LEVEL = 0.95
FEWEST = 3  # seeds below which nothing is settled
_NO_SPREAD = 1e-9  # what rounding leaves of differences that are the same

Key = TypeVar("Key", bound=Hashable)
Verdict = Literal["equal", "better", "worse", "unsettled", "itself"]


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean over seeds, t interval, Holm-adjusted p-value and verdict."""

    seeds: int
    mean: float
    low: float
    high: float
    p: float
    verdict: Verdict


def compare_to(
    baseline: Key,
    values: Mapping[Key, Sequence[float]],
    *,
    within: float,
    more_is_better: bool = True,
) -> dict[Key, Difference]:
    """Compare every row with a baseline, seed by seed.

    values: row -> the number of each seed, all in the same order of seeds. The p-values of all rows
    but the baseline are adjusted together (Holm, 1979). `equal` only where the whole interval lies
    within +-`within`; `better` or `worse` only where the adjusted p-value is below 5 %; otherwise
    `unsettled`. Fewer than `FEWEST` seeds settle nothing. Where all seeds show
    the same difference, it has no bounds and p = 1, unless it is zero: rows that answer alike with
    every seed are `equal`.
    """
    rows = {name: _paired(values[name], values[baseline]) for name in values if name != baseline}
    adjusted = holm({name: p for name, (_, _, _, p) in rows.items()})
    seeds = len(values[baseline])
    out = {baseline: Difference(seeds, 0.0, 0.0, 0.0, 1.0, "itself")}
    for name, (mean, low, high, _) in rows.items():
        verdict = _verdict(mean if more_is_better else -mean, low, high, adjusted[name], within)
        if seeds < FEWEST:
            verdict = "unsettled"
        out[name] = Difference(seeds, mean, low, high, adjusted[name], verdict)
    return out


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p-values adjusted for their number: Holm's step-down method.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - rank)))
        adjusted[name] = largest
    return adjusted


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float, float]:
    """Return mean, t interval and two-sided p-value of a paired difference."""
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, -np.inf, np.inf, 1.0
    if np.ptp(differences) < _NO_SPREAD:
        alike = abs(mean) < _NO_SPREAD and len(differences) >= FEWEST
        return (0.0, 0.0, 0.0, 1.0) if alike else (mean, -np.inf, np.inf, 1.0)
    found = stats.ttest_rel(ours, theirs)
    interval = found.confidence_interval(LEVEL)
    return mean, float(interval.low), float(interval.high), float(found.pvalue)


def _verdict(gain: float, low: float, high: float, p: float, within: float) -> Verdict:
    if -within < low and high < within:
        return "equal"
    if p < 1 - LEVEL:
        return "better" if gain > 0 else "worse"
    return "unsettled"
