"""A comparison ends with a sentence: the best row, how sure, how many seeds are missing."""

import numpy as np
import pytest
from scipy import stats
from tip.pipeline.compare.answer import answer, seeds_to_settle
from tip.pipeline.compare.measures import MEASURES
from tip.pipeline.compare.rows import ALL_TOKENS, RANDOM, Row
from tip.pipeline.compare.table import judged

from .outcomes import outcome

Q3 = Row("q3", 0.2)


def told(**afters: list[float]) -> str:
    rows = {"every": ALL_TOKENS, "random": Row(RANDOM, 0.2), "q3": Q3}
    every = [
        outcome(rows[name], seed, 40, after)
        for name, values in afters.items()
        for seed, after in enumerate(values)
    ]
    return answer(judged(every, MEASURES["accuracy"]))


def test_a_settled_row_is_told_with_its_intervals() -> None:
    text = told(every=[60.0, 61, 62], random=[50.0, 51, 52.1], q3=[60.1, 61.2, 62.0])
    assert text.startswith("q3 20% has the most accuracy: 61.1 points; against random tokens at")
    assert ", better; against all tokens +0.1 [" in text
    assert text.endswith(", equal.")


def test_an_unsettled_row_is_told_how_many_seeds_are_missing() -> None:
    text = told(every=[60.0, 61, 62], random=[50.0, 51, 52.0], q3=[58.0, 53.0, 57.0])
    assert "unsettled: " in text
    assert "seeds more would settle it, if they go on so" in text


def test_too_few_seeds_and_no_difference_are_told_as_such() -> None:
    text = told(every=[60.0, 61], random=[50.0, 51], q3=[58.0, 57.0])
    assert "against random tokens at its budget +7.0: 2 seeds settle nothing, 3 may" in text
    none = told(every=[60.0, 50, 62], random=[60.5, 53, 55.0], q3=[55.0, 60.0, 60.2])
    assert "not even 100 seeds would tell it from none" in none


def test_without_a_rule_there_is_no_sentence() -> None:
    assert told(every=[60.0, 61, 62]) == ""


@pytest.mark.parametrize(("mean", "spread"), [(1.0, 0.5), (0.3, 0.5), (2.0, 1.0)])
def test_so_many_seeds_settle_it_and_one_less_does_not(mean: float, spread: float) -> None:
    half = stats.t.ppf(0.975, 3) * spread / 2
    wanted = seeds_to_settle(mean, half, 4, tests=1)
    assert wanted is not None

    def p(seeds: int) -> float:
        values = np.array([1.0, -1.0] * 50)[:seeds]
        values = (values - values.mean()) / values.std(ddof=1) * spread + mean
        return float(stats.ttest_1samp(values, 0).pvalue)

    assert p(wanted) < 0.05
    if wanted > 3:
        assert p(wanted - 1) >= 0.05
