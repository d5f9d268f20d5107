"""Verdicts: never more than the seeds can say."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats
from tip.pipeline.compare import paired
from tip.pipeline.compare.paired import holm

compare_to = partial(paired.compare_to, within=2.0)


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_interval_and_p_are_those_of_the_mean_difference_and_its_standard_error(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    ours, theirs = rng.normal(50, 3, seeds), rng.normal(48, 3, seeds)
    found = compare_to("b", {"b": list(theirs), "a": list(ours)})["a"]
    differences = ours - theirs
    error = differences.std(ddof=1) / math.sqrt(seeds)
    half = stats.t.ppf(0.975, seeds - 1) * error
    mean = differences.mean()
    p = 2 * stats.t.sf(abs(mean) / error, seeds - 1)
    expected = (mean, mean - half, mean + half, p)
    assert (found.mean, found.low, found.high, found.p) == pytest.approx(expected, rel=1e-12)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, -0.2, 0.3, 0.0, -0.1], "equal"),
        ([9.0, 10.0, 11.0, 10.5, 9.5], "better"),
        ([-9.0, -10.0, -11.0, -10.5, -9.5], "worse"),
        ([5.0, -5.0, 9.0, -2.0, 3.0], "unsettled"),
        ([1.0, 1.2, 0.8, 1.1, 0.9], "equal"),
        ([50.0], "unsettled"),
        ([9.0, 9.1], "unsettled"),
        ([0.0, 0.1], "unsettled"),
        ([2.5, 2.5, 2.5], "unsettled"),
        ([-1.0, -1.0, -1.0, -1.0], "unsettled"),
        ([0.0, 0.0, 0.0], "equal"),
        ([0.0, 0.0], "unsettled"),
    ],
)
def test_a_verdict_needs_its_evidence(differences: list[float], verdict: str) -> None:
    base = [60.0] * len(differences)
    ours = [60.0 + d for d in differences]
    assert compare_to("base", {"base": base, "rule": ours})["rule"].verdict == verdict


def test_where_less_is_better_a_smaller_number_is() -> None:
    base, less = [2.0, 2.1, 1.9], [1.0, 1.2, 0.8]
    found = paired.compare_to("b", {"b": base, "a": less}, within=0.1, more_is_better=False)["a"]
    assert (found.verdict, found.mean) == ("better", pytest.approx(-1))
    assert paired.compare_to("b", {"b": base, "a": less}, within=0.1)["a"].verdict == "worse"


def test_one_difference_of_all_seeds_has_no_bounds_even_where_it_is_rounded() -> None:
    ours, theirs = [60.3, 50.3, 40.3, 70.3], [60.1, 50.1, 40.1, 70.1]
    assert len({a - b for a, b in zip(ours, theirs, strict=True)}) > 1
    found = compare_to("b", {"b": theirs, "a": ours})["a"]
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)
    assert found.verdict == "unsettled"


def test_many_rules_make_each_verdict_harder() -> None:
    rng = np.random.default_rng(1)
    base = list(rng.normal(60, 1, 5))
    ours = [b + d for b, d in zip(base, [2.0, 6.0, 5.0, 3.0, 7.0], strict=True)]
    alone = compare_to("base", {"base": base, "rule": ours})["rule"]
    noise = {f"n{i}": list(np.array(base) + rng.normal(0, 3, 5)) for i in range(40)}
    among = compare_to("base", {"base": base, "rule": ours, **noise})["rule"]
    assert alone.verdict == "better"
    assert among.verdict == "unsettled"
    assert among.p > alone.p


def test_the_baseline_is_itself_and_one_seed_settles_nothing() -> None:
    found = compare_to("b", {"b": [1.0], "a": [90.0]})
    assert found["b"].verdict == "itself"
    assert math.isinf(found["a"].high)


def test_verdicts_are_wrong_at_most_as_often_as_they_say() -> None:
    # 400 comparisons without a difference: at 5 % at most 20 expected; above 35 has p < 1e-3.
    rng = np.random.default_rng(2)
    wrong = sum(
        compare_to("b", {"b": list(rng.normal(0, 5, 5)), "a": list(rng.normal(0, 5, 5))})[
            "a"
        ].verdict
        in ("better", "worse")
        for _ in range(400)
    )
    assert wrong <= 35
