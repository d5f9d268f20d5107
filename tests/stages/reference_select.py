"""Selection written a second time, in numpy: what `select` is held against.

Nothing is shared with the SQL but the definitions: whole columns in float64, full sorts, one scope
at a time.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

Columns = dict[str, np.ndarray]

_CLAMPED = (
    "student_entropy",
    "teacher_entropy",
    "reverse_kl",
    "forward_kl",
    "jsd",
    "hellinger",
)
_PLAIN = (
    "student_logprob",
    "teacher_logprob",
    "student_mass",
    "teacher_mass",
    "teacher_mass_top",
    "overlap",
    "signal_to_noise",
    "drift",
)

SAMPLED = {"random", "entropy_sampled", "soft_or_sampled"}
WEIGHED = {"fire_opd", "iw_opd", "sdar", "overlap"}  # these weigh by what they rank by
WHOLE = {"all", "horizon", "kat", "eopd", *WEIGHED}  # these keep all they rank


def trainable_columns(tokens: pa.Table) -> Columns:
    """Return the columns of the trainable tokens, numbers in float64."""
    c: Columns = {name: tokens[name].to_numpy() for name in tokens.column_names}
    c = {name: values[c["trainable"]] for name, values in c.items()}
    for name in _CLAMPED:
        c[name] = np.maximum(c[name].astype(np.float64), 0.0)
    for name in _PLAIN:
        c[name] = c[name].astype(np.float64)
    return c


def quantile(values: np.ndarray, share: float) -> float:
    """Return the linearly interpolated quantile."""
    ordered = np.sort(values)
    place = share * (len(ordered) - 1)
    lower, upper = ordered[math.floor(place)], ordered[math.ceil(place)]
    return float(lower + (upper - lower) * (place - math.floor(place)))


def unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bring values to [0, 1], clipped; 0 for an empty range."""
    if high <= low:
        return np.zeros_like(values)
    return (np.clip(values, low, high) - low) / (high - low)


def _clip_entropy(c: Columns, share: float = 0.98) -> np.ndarray:
    h = c["student_entropy"]
    return unit(h, h.min(), quantile(h, share))


def _soft_or(c: Columns) -> np.ndarray:
    h, kl = _clip_entropy(c), c["reverse_kl"]
    d = unit(kl, kl.min(), kl.max())
    return h + d - h * d


def _soft_or_clipped(c: Columns) -> np.ndarray:
    h, kl = _clip_entropy(c), c["reverse_kl"]
    d = unit(kl, kl.min(), quantile(kl, 0.98))
    return h + d - h * d


def _of_type(kind: str) -> Callable[[Columns], np.ndarray]:
    return lambda c: np.where(c["type"] == kind, c["reverse_kl"], np.nan)


def _ta_opd(c: Columns) -> np.ndarray:
    score = np.ones(len(c["rollout"]))
    for name in ("forward_kl", "teacher_mass_top"):
        score = score * unit(c[name], quantile(c[name], 0.05), quantile(c[name], 0.95))
    best = {r: score[c["rollout"] == r].max() for r in set(c["rollout"])}
    return score + np.array([s == best[r] for s, r in zip(score, c["rollout"], strict=True)])


def _millionths(values: np.ndarray) -> list[int]:
    """Return each number in millionths, a half away from zero."""
    return [math.floor(abs(1e6 * x) + 0.5) * (-1 if x < 0 else 1) for x in values]


def _by_rollout(c: Columns) -> list[list[int]]:
    """Return the rows of each rollout, by position."""
    places = sorted(range(len(c["rollout"])), key=lambda i: c["position"][i])
    return [[i for i in places if c["rollout"][i] == r] for r in set(c["rollout"])]


def _log_ratio(c: Columns) -> np.ndarray:
    return c["teacher_logprob"] - c["student_logprob"]


def _dial(c: Columns, beta: float = 1) -> np.ndarray:
    """|a| times the logarithmic mean of both probabilities to the power beta."""
    out = []
    for s, q, a in zip(c["student_logprob"], c["teacher_logprob"], _log_ratio(c), strict=True):
        mean = math.exp(q) if a == 0 else (math.exp(q) - math.exp(s)) / a
        out.append(abs(a) * mean**beta)
    return np.array(out)


def _power(c: Columns, alpha: float = 5) -> np.ndarray:
    s, q = np.exp(c["student_logprob"]), np.exp(c["teacher_logprob"])
    return np.abs(q**alpha - s**alpha) / alpha


def _ends(c: Columns) -> np.ndarray:
    a, out = _log_ratio(c), np.zeros(len(c["rollout"]))
    for rows in _by_rollout(c):
        upwards, downwards = (sorted(rows, key=lambda i, s=s: s * a[i]) for s in (1, -1))
        for i in rows:
            out[i] = -min(upwards.index(i), downwards.index(i)) - 1
    return out


def _sdar(c: Columns, beta: float = 5) -> np.ndarray:
    return 1 / (1 + np.exp(-beta * _log_ratio(c)))


def _iw_opd(c: Columns, gamma: float = 0.5) -> np.ndarray:
    distance, out = _millionths(np.abs(_log_ratio(c))), np.zeros(len(c["rollout"]))
    for rows in _by_rollout(c):
        whole, before = sum(distance[i] for i in rows), 0
        for i in rows:
            out[i] = 1 + gamma * (1 - before / max(whole, 1))
            before += distance[i]
    return out


def _ier_fused(c: Columns, low: float = 0.05, high: float = 0.95) -> np.ndarray:
    def brought(name: str) -> np.ndarray:
        return unit(c[name], quantile(c[name], low), quantile(c[name], high))

    ratio = c["signal_to_noise"]
    r = np.array([(ratio < x).sum() for x in ratio]) / max(len(ratio) - 1, 1)
    h, d = brought("student_entropy"), brought("forward_kl")
    u = h + d - h * d
    return r + u - r * u


def _overlap(
    c: Columns, threshold: float = 0.7, drop: float = 0.01, base: float = 0.5
) -> np.ndarray:
    out = np.zeros(len(c["rollout"]))
    for rows in _by_rollout(c):
        apart = 0
        for i in rows:
            apart += c["overlap"][i] < threshold
            out[i] = base + max(0.0, 1 - drop * apart)
    return out


def _kat(
    c: Columns, window: int = 64, patience: int = 4, share: float = 0.7, grace: int = 0
) -> np.ndarray:
    """A counter goes up with each low window and back to 0 with any other, as rollouts are made."""
    d, out = _millionths(c["reverse_kl"]), -c["position"].astype(float)
    z = {}
    for number, rows in enumerate(_by_rollout(c)):
        ends = range(window + grace, len(rows) + 1)
        z[number] = {end: float(sum(d[i] for i in rows[end - window : end])) for end in ends}
    least = np.array([min(each.values()) for each in z.values() if each])
    if not len(least):
        return out
    border = quantile(least, share)
    for number, rows in enumerate(_by_rollout(c)):
        low = 0
        for end, value in z[number].items():
            low = low + 1 if value < border else 0
            if low == patience:
                out[rows[end - patience + 1 - window :]] = np.nan
                break
    return out


def _fire_opd(c: Columns) -> np.ndarray:
    millionths = _millionths(c["teacher_logprob"])
    ratings = {}
    for r in set(c["rollout"]):
        mine = [v for v, of in zip(millionths, c["rollout"], strict=True) if of == r]
        ratings[r] = float(sum(mine)) / len(mine)
    border = sorted(ratings.values())[math.ceil(0.2 * (len(ratings) - 1))]
    confident = 1 - c["teacher_entropy"] / max(c["teacher_entropy"].max(), 1e-6)
    confused = c["student_entropy"] / max(c["student_entropy"].max(), 1e-6)
    kept = np.array([ratings[r] >= border for r in c["rollout"]])
    return np.where(kept, (1 + confident) * (1 + confused), np.nan)


def _opsa(c: Columns) -> np.ndarray:
    """Return 1/2 + (H - least) / (2 (most - least)) over the fifth of lowest log-prob."""
    weights = np.full(len(c["rollout"]), 0.5)
    for r in set(c["rollout"]):
        mine = np.flatnonzero(c["rollout"] == r)
        order = mine[np.lexsort((c["position"][mine], c["student_logprob"][mine]))]
        lowest = c["student_entropy"][order[: max(1, math.floor(0.2 * len(mine) + 1e-9))]]
        weights[mine] += unit(c["student_entropy"][mine], lowest.min(), lowest.max()) / 2
    return weights


# What a rule gives beside its importance, where that is not 1 and no loss of its own.
WEIGHT: dict[str, Callable[[Columns], np.ndarray]] = {"opsa": _opsa}
LOSS: dict[str, Callable[[Columns], np.ndarray]] = {
    "eopd": lambda c: np.where(c["teacher_entropy"] > 0.8, "jeffreys", "reverse_kl"),
    "opsa": lambda c: np.full(len(c["rollout"]), "suppress"),
}
# Importance of each trainable token; NaN: left out.
IMPORTANCE: dict[str, Callable[..., np.ndarray]] = {
    "all": lambda c: np.ones(len(c["rollout"])),
    "random": lambda c: np.ones(len(c["rollout"])),
    "entropy_top": lambda c: c["student_entropy"],
    "entropy_bottom": lambda c: -c["student_entropy"],
    "entropy_sampled": lambda c: c["student_entropy"],
    "divergence": lambda c: c["reverse_kl"],
    "forward_divergence": lambda c: c["forward_kl"],
    "jsd_divergence": lambda c: c["jsd"],
    "hellinger": lambda c: c["hellinger"],
    "soft_or": _soft_or,
    "soft_or_sampled": _soft_or,
    "soft_or_bottom": lambda c: -_soft_or(c),
    "soft_or_clipped": _soft_or_clipped,
    "q3": lambda c: c["forward_kl"] * (1 - _clip_entropy(c)),
    "type_q1": _of_type("Q1"),
    "type_q2": _of_type("Q2"),
    "type_q3": _of_type("Q3"),
    "type_q4": _of_type("Q4"),
    "first": lambda c: -c["position"].astype(float),
    "last": lambda c: c["position"].astype(float),
    "horizon": lambda c: np.where(c["position"] < 100, -c["position"].astype(float), np.nan),
    "low_logprob": lambda c: -c["student_logprob"],
    "excess_loss": _log_ratio,
    "excess_loss_bottom": lambda c: -_log_ratio(c),
    "excess_loss_ends": _ends,
    "aopd": lambda c: np.where(_log_ratio(c) <= 0, -_log_ratio(c), np.nan),
    "dial": _dial,
    "power": _power,
    "sdar": _sdar,
    "iw_opd": _iw_opd,
    "ier": lambda c: c["signal_to_noise"],
    "ier_fused": _ier_fused,
    "overlap": _overlap,
    "kat": _kat,
    "ta_opd": _ta_opd,
    "fire_opd": _fire_opd,
    "eopd": lambda c: np.ones(len(c["rollout"])),
    "opsa": lambda c: -c["student_logprob"],
}


def _mixed(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B & 0xFFFFFFFF
    x ^= x >> 13
    x = x * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


def noise(seed: int, rollout: int, position: int) -> int:
    """Return the 32 bits of noise of a token."""
    low, high = rollout & 0xFFFFFFFF, rollout >> 32
    a, b = _mixed(low ^ seed & 0xFFFFFFFF), _mixed(high ^ seed >> 32 & 0xFFFFFFFF)
    c, d = _mixed(a ^ high), _mixed(b ^ low)
    first, second = _mixed(c ^ b), _mixed(d ^ a)
    return _mixed(_mixed(first ^ position) ^ second)


def types(c: Columns, cuts: tuple[float, float]) -> np.ndarray:
    """Return the type of each token."""
    high_h, high_d = c["student_entropy"] >= cuts[0], c["reverse_kl"] >= cuts[1]
    return np.where(high_h, np.where(high_d, "Q1", "Q2"), np.where(high_d, "Q3", "Q4"))


def reference_select(
    tokens: pa.Table,
    rule: str,
    *,
    keep: float = 0.2,
    count: int | None = None,
    scope: str = "rollout",
    seed: int = 0,
    where: Callable[[Columns], np.ndarray] | None = None,
    corrected: bool = False,
    cuts: tuple[float, float] | str = (0.3, 0.1),
    weigh: Callable[[int], float] = lambda rollout: 1.0,
    params: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return the selection's rows, ordered by rollout and position."""
    c = trainable_columns(tokens)
    if not len(c["rollout"]):
        return []
    if isinstance(cuts, str):
        cuts = quantile(c["student_entropy"], 0.5), quantile(c["reverse_kl"], 0.5)
    c["type"] = types(c, cuts)
    importance = IMPORTANCE[rule](c, **params or {})
    weights = np.where(np.isnan(importance), 0.0, importance if rule in WEIGHED else 1.0)
    if rule in WEIGHT:
        weights = WEIGHT[rule](c)
    losses = LOSS[rule](c).tolist() if rule in LOSS else [None] * len(importance)
    c["noise"] = np.array(
        [noise(seed, int(r), int(p)) for r, p in zip(c["rollout"], c["position"], strict=True)]
    )
    candidate = ~np.isnan(importance) & (True if where is None else where(c))
    scopes = c["rollout"] if scope == "rollout" else np.zeros(len(importance), np.int64)
    rows: list[dict[str, Any]] = []
    for one in set(scopes):
        inside = scopes == one
        share = 1.0 if rule in WHOLE else keep
        k = max(1, math.floor(share * inside.sum() + 1e-9))
        k = k if count is None or rule in WHOLE else count
        chosen = np.flatnonzero(inside & candidate)
        for i, chance in _chosen(c, importance, chosen, k, rule in SAMPLED, corrected):
            rows.append(
                {
                    "rollout": int(c["rollout"][i]),
                    "position": int(c["position"][i]),
                    "weight": weights[i] * weigh(int(c["rollout"][i])) / chance,
                    "loss": losses[i],
                    "type": str(c["type"][i]),
                    "importance": float(importance[i]),
                }
            )
    return sorted(rows, key=lambda row: (row["rollout"], row["position"]))


def _chosen(
    c: Columns, importance: np.ndarray, among: np.ndarray, k: int, sampled: bool, corrected: bool
) -> list[tuple[int, float]]:
    """Return which tokens of one scope are kept, each with the chance to divide by."""
    if not sampled:
        order = sorted(
            among,
            key=lambda i: (
                -importance[i],
                -c["reverse_kl"][i],
                c["noise"][i],
                c["rollout"][i],
                c["position"][i],
            ),
        )
        return [(i, 1.0) for i in order[:k]]
    wait = {i: _waiting(int(c["noise"][i]), float(importance[i])) for i in among}
    order = sorted(among, key=lambda i: (wait[i], c["noise"][i], c["rollout"][i], c["position"][i]))
    tau = wait[order[k]] if len(order) > k else math.inf
    exact = not corrected or math.isinf(tau)
    return [
        (i, 1.0 if exact or importance[i] <= 0 else 1 - math.exp(-importance[i] * tau))
        for i in order[:k]
    ]


def _waiting(noise_bits: int, importance: float) -> float:
    """Return Exp(1) / importance, the time until the token comes; never if importance is 0."""
    if importance <= 0:
        return math.inf
    return -math.log((noise_bits + 0.5) / 2**32) / importance
