"""What a sampler should draw from, the long way, and whether counts could have come from it."""

from typing import Any

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6  # chance that a fair sampler fails one of the tests

TEMPERED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7, "top_k": 5},
    {"top_p": 0.7},
    {"temperature": 1.3, "top_p": 0.8, "top_k": 6},
]


def expected_distribution(
    logits: np.ndarray, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> np.ndarray:
    """Return what is to be sampled from, the long way, [V] float64."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    kept = 0.0
    for i in order:
        if kept >= top_p:
            p[i] = 0
        kept += p[i]
    return p / p.sum()


def assert_drawn_from(counts: np.ndarray, p: np.ndarray) -> None:
    """Chi-square with rare cells pooled: a fair sampler fails with probability FALSE_ALARM."""
    assert (counts[p == 0] == 0).all()
    order = np.argsort(p)
    seen, due = counts[order], counts.sum() * p[order]
    pooled = int(np.searchsorted(due.cumsum(), 10)) + 1  # the first cells make one of at least 10
    seen, due = (np.append(x[pooled:], x[:pooled].sum()) for x in (seen, due))
    assert len(due) > 1
    assert stats.chisquare(seen, due).pvalue > FALSE_ALARM
