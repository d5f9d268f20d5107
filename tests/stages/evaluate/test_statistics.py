"""Rates and intervals agree with closed forms, and intervals cover what they should."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.evaluate.statistics import (
    bootstrap_interval,
    mean_at_n,
    pass_at_k,
    pass_sizes,
    summarise,
)

RESAMPLES = 2000


def verdicts(*right: int, samples: int) -> np.ndarray:
    """Return verdicts [P, G] in which problem p has right[p] right samples."""
    return np.arange(samples)[None, :] < np.array(right)[:, None]


def test_mean_at_n_is_each_problems_share_of_right_samples() -> None:
    assert mean_at_n(verdicts(0, 1, 3, 4, samples=4)).tolist() == [0, 0.25, 0.75, 1]


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case: tuple[int, int]) -> None:
    samples, right = case
    for k in range(1, samples + 1):
        subsets = list(combinations(range(samples), k))
        share = sum(min(subset) < right for subset in subsets) / len(subsets)
        assert pass_at_k(verdicts(right, samples=samples), k)[0] == pytest.approx(share, abs=1e-15)


def test_pass_at_1_is_mean_at_n() -> None:
    correct = verdicts(0, 2, 5, 16, samples=16)
    np.testing.assert_allclose(pass_at_k(correct, 1), mean_at_n(correct), rtol=1e-15)


def test_pass_at_n_asks_whether_any_sample_is_right() -> None:
    assert pass_at_k(verdicts(0, 1, 6, samples=6), 6).tolist() == [0, 1, 1]


def test_pass_at_k_stays_exact_for_many_samples() -> None:
    # 1 - C(999, 500) / C(1000, 500) = 1 - 500 / 1000; the binomials exceed a float's range of
    # exact integers by 280 digits.
    assert pass_at_k(verdicts(1, samples=1000), 500)[0] == 0.5


def test_pass_at_k_is_unbiased() -> None:
    # 20,000 problems of 8 samples, each right with chance 0.2: pass@4 is 1 - 0.8^4 = 0.5904. One
    # estimate has a standard deviation below 0.5, so their mean one below 0.0036; 0.018 is five
    # of them: a right estimator fails for 6 seeds in 10 million.
    correct = np.random.default_rng(0).random((20_000, 8)) < 0.2
    assert pass_at_k(correct, 4).mean() == pytest.approx(1 - 0.8**4, abs=0.018)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_pass_at_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"pass@{k} of 4 samples: expected k from 1 to 4"):
        pass_at_k(verdicts(1, samples=4), k)


def test_no_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 4\): expected \[problems, samples\]"):
        mean_at_n(np.zeros((0, 4), dtype=bool))
    with pytest.raises(ValueError, match="no problem"):
        bootstrap_interval([], resamples=RESAMPLES, seed=0)


@pytest.mark.parametrize(
    ("samples", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_pass_sizes_are_powers_of_two_and_the_number_of_samples(
    samples: int, sizes: list[int]
) -> None:
    assert pass_sizes(samples) == sizes


def test_the_interval_is_that_of_resampled_problems() -> None:
    # Against the definition: draw P problems with replacement, take the mean, cut 2.5 % off each
    # side. Both intervals come from 100,000 resamples; a percentile's standard error is then 0.2 %
    # of the means' spread of 0.035, so 0.001 is 8 of the difference's standard errors and more
    # than the step of 1/640 between neighbouring means would hide: ends are equal or one apart.
    rng = np.random.default_rng(1)
    values = rng.integers(0, 9, size=80) / 8
    means = values[rng.integers(0, 80, size=(100_000, 80))].mean(axis=1)
    expected = np.percentile(means, [2.5, 97.5])
    interval = bootstrap_interval(values, resamples=100_000, seed=2)
    np.testing.assert_allclose(interval, expected, atol=1 / 640 + 1e-9)


def test_the_interval_covers_the_true_rate() -> None:
    # 1,000 evaluations of 100 problems with 4 samples, problems of unequal difficulty (Beta(1, 1):
    # true mean 0.5). At 100 problems a percentile interval covers about 94.4 %. The number that
    # cover is binomial, standard deviation 7.3: 915..975 fails for 1 seed in 20,000. An interval
    # over samples instead of problems (it covers 84 %) or at 90 % level fails.
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(1000):
        correct = rng.random((100, 4)) < rng.random((100, 1))
        low, high = bootstrap_interval(mean_at_n(correct), resamples=500, seed=seed)
        covered += low <= 0.5 <= high
    assert 915 <= covered <= 975


def test_a_seed_fixes_the_interval_and_the_order_of_problems_does_not_matter() -> None:
    values = np.random.default_rng(4).random(50)
    interval = bootstrap_interval(values, resamples=RESAMPLES, seed=5)
    assert bootstrap_interval(values[::-1], resamples=RESAMPLES, seed=5) == interval
    assert bootstrap_interval(values, resamples=RESAMPLES, seed=6) != interval


def test_problems_that_are_all_alike_give_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.25] * 7, resamples=RESAMPLES, seed=0) == (0.25, 0.25)


def test_a_summary_holds_the_numbers_of_its_parts() -> None:
    correct = verdicts(0, 1, 4, samples=4)
    truncated = verdicts(2, 1, 0, samples=4)
    summary = summarise(correct, truncated, resamples=RESAMPLES, seed=7)
    assert (summary.problems, summary.samples) == (3, 4)
    assert summary.mean == pytest.approx(5 / 12)
    interval = bootstrap_interval(mean_at_n(correct), resamples=RESAMPLES, seed=7)
    assert (summary.low, summary.high) == interval
    assert summary.pass_at == pytest.approx({1: 5 / 12, 2: (0 + 0.5 + 1) / 3, 4: 2 / 3})
    assert summary.truncated == pytest.approx(3 / 12)


def test_a_summary_refuses_truncations_of_other_samples() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4\), truncations \(1, 3\)"):
        summarise(verdicts(1, samples=4), verdicts(1, samples=3), resamples=9, seed=0)
