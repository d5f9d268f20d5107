"""The information-efficiency ratio (IER) as its paper writes it, and how far rounding may move it.

Two slots have no noise at all, so the ratio of nearly equal numbers is what float32 is judged by:
not the ratio itself, but the bounds that log-probs with a known error give it.
"""

import numpy as np


def signal_and_noise(log_p: np.ndarray, log_q: np.ndarray) -> tuple[float, float]:
    """Return Var_p(c) and E_p[(c - b)^2 L] - Var_p(c) of one token, from log-probs [K]."""
    p, q = (np.exp(x - np.logaddexp.reduce(x)) for x in (log_p, log_q))
    if len(p) == 1:
        return 0.0, 0.0
    ratio = log_p - np.logaddexp.reduce(log_p) - log_q + np.logaddexp.reduce(log_q)
    weight = np.array([x * (1 / x - 1) if x > 1e-300 else 1.0 for x in p])  # p L, and its limit
    assert np.isclose(p.sum(), 1)
    assert np.isclose(q.sum(), 1)
    c = np.clip(ratio, -30, 30)
    signal = (p * c**2).sum() - (p * c).sum() ** 2
    b = (weight * c).sum() / weight.sum()
    return float(signal), float((weight * (c - b) ** 2).sum() - signal)


def ratio_bounds(log_p: np.ndarray, log_q: np.ndarray, error: float) -> tuple[float, float]:
    """Return between which numbers the ratio lies when each log-prob is off by at most `error`.

    Renormalised, a log-prob is off by twice that and c by four times; to first order, with c over a
    range r: the signal by (8 r + 2 r^2) error, the noise by (8 K r + 4 r^2) error.
    """
    signal, noise = signal_and_noise(log_p, log_q)
    c = np.clip(log_p - log_q - np.logaddexp.reduce(log_p) + np.logaddexp.reduce(log_q), -30, 30)
    r = float(np.ptp(c)) + 8 * error
    of_signal, of_noise = (8 * r + 2 * r**2) * error, (8 * len(c) * r + 4 * r**2) * error
    low = (signal - of_signal) / max(noise + of_noise, 1e-8)
    return low, (signal + of_signal) / max(noise - of_noise, 1e-8)
