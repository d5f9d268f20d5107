"""What an evaluation's verdicts say, and how sure one may be of it.

Shapes: P problems, G samples a problem. Problems are the unit of uncertainty: samples of one
problem are not independent, so every interval is over problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # share of resamples inside an interval


@dataclass(frozen=True)
class Summary:
    """An evaluation in numbers; rates are shares in 0..1.

    `mean` is mean@n with its 95 % interval `low`..`high`; `pass_at[k]` is the chance that at
    least one of k samples is right, for k = 1, 2, 4, ... and n.
    """

    problems: int
    samples: int
    mean: float
    low: float
    high: float
    pass_at: dict[int, float]
    truncated: float


def summarise(
    correct_P_G: NDArray[np.bool_],
    truncated_P_G: NDArray[np.bool_],
    *,
    resamples: int,
    seed: int,
) -> Summary:
    """Return the summary of verdicts and of whether each response met the length limit.

    Raises `ValueError` if the two differ in shape or are empty.
    """
    if correct_P_G.shape != truncated_P_G.shape:
        raise ValueError(
            f"verdicts have shape {correct_P_G.shape}, truncations {truncated_P_G.shape}: "
            "expected one of each a sample"
        )
    means_P = mean_at_n(correct_P_G)
    low, high = bootstrap_interval(means_P, resamples=resamples, seed=seed)
    problems, samples = correct_P_G.shape
    return Summary(
        problems=problems,
        samples=samples,
        mean=float(means_P.mean()),
        low=low,
        high=high,
        pass_at={k: float(pass_at_k(correct_P_G, k).mean()) for k in pass_sizes(samples)},
        truncated=float(truncated_P_G.mean()),
    )


def mean_at_n(correct_P_G: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each problem's share of right samples, [P]; its mean over problems is mean@n.

    Raises `ValueError` without a problem or a sample.
    """
    if correct_P_G.ndim != 2 or correct_P_G.size == 0:
        raise ValueError(
            f"verdicts have shape {correct_P_G.shape}: expected [problems, samples], none of them 0"
        )
    return correct_P_G.mean(axis=1, dtype=np.float64)


def pass_at_k(correct_P_G: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Return each problem's unbiased estimate that one of k samples is right, [P].

    1 - C(n - c, k) / C(n, k) with c right ones of n: the share of the k-subsets of the samples
    that hold a right one. Raises `ValueError` unless 1 <= k <= n.
    Source: arXiv 2107.03374, equation 1.
    """
    samples = correct_P_G.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples: expected k from 1 to {samples}")
    # Integers of any size, so the ratio is exact for any n; c takes n + 1 values only.
    by_count = np.array([1 - comb(samples - c, k) / comb(samples, k) for c in range(samples + 1)])
    return by_count[correct_P_G.sum(axis=1)]


def pass_sizes(samples: int) -> list[int]:
    """Return the k to report: powers of two up to the number of samples, and that number."""
    return sorted({1 << power for power in range(samples.bit_length())} | {samples})


def bootstrap_interval(
    values_P: NDArray[np.float64] | Sequence[float], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over problems, at level `LEVEL`.

    A resample's mean depends only on how often each distinct value is drawn, so the counts are
    drawn (multinomial) and never the P indices: P x resamples draws become G + 1 a resample.
    Values that are all equal give an interval of no width, however few they are. Raises
    `ValueError` without a value.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    values, counts = np.unique(np.asarray(values_P, dtype=np.float64), return_counts=True)
    problems = int(counts.sum())
    if problems == 0:
        raise ValueError("an interval over no problem: expected at least one value")
    drawn = np.random.default_rng(seed).multinomial(problems, counts / problems, size=resamples)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn @ values / problems, [tail, 100 - tail])
    return float(low), float(high)
