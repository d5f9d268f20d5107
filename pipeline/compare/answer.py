"""What a comparison answers, in a sentence: the best row, how sure, how many seeds are missing."""

from typing import Any

from scipy import stats

from .paired import FEWEST, LEVEL
from .rows import ALL
from .table import Judged

_MOST = 100  # seeds; a difference that needs more matters to nobody


def answer(judged: Judged) -> str:
    """Return what the rows of a comparison come to by one measure, for people."""
    lines = judged.frame.to_dicts()
    rows = [line for line in lines if line.get("lr") is not None and line.get("refresh")]
    rules = [line for line in rows if line["rule"] != ALL or line["changes"]]
    if not rules:
        return ""
    measure = judged.measure
    best = (max if measure.more_is_better else min)(rules, key=lambda line: line["value"])
    most = "most" if measure.more_is_better else "least"
    told = [
        f"{best['row']} has the {most} {measure.name}: {best['value']:.{measure.digits}f} "
        f"{measure.unit}"
    ]
    told += [
        _against(best, name, to, measure.digits, len(rules))
        for name, to in (("random tokens at its budget", "random"), ("all tokens", "all"))
        if best[f"verdict_to_{to}"] not in (None, "itself")
    ]
    return f"{'; '.join(told)}."


def _against(line: dict[str, Any], name: str, to: str, digits: int, tests: int) -> str:
    mean, low, high = (line[f"{part}_to_{to}"] for part in ("mean", "low", "high"))
    verdict, seeds = line[f"verdict_to_{to}"], line["seeds"]
    told = f"against {name} {mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], {verdict}"
    if verdict != "unsettled":
        return told
    if seeds < FEWEST:
        return f"against {name} {mean:+.{digits}f}: {seeds} seeds settle nothing, {FEWEST} may"
    wanted = seeds_to_settle(mean, (high - low) / 2, seeds, tests)
    if wanted is None:
        return f"{told}: not even {_MOST} seeds would tell it from none, if the seeds go on so"
    return f"{told}: {max(1, wanted - seeds)} seeds more would settle it, if they go on so"


def seeds_to_settle(mean: float, half_width: float, seeds: int, tests: int) -> int | None:
    """Return how many seeds in all would settle a difference of this size and spread.

    half_width: of its 95 % t interval over so many seeds. tests: that are adjusted together, all
    counted as Holm counts the smallest p-value. None: more than 100.
    """
    if not 0 < half_width < float("inf"):
        return None
    spread = half_width / stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * seeds**0.5
    for wanted in range(FEWEST, _MOST + 1):
        p = 2 * stats.t.sf(abs(mean) / spread * wanted**0.5, wanted - 1)
        if p * tests < 1 - LEVEL:
            return wanted
    return None
