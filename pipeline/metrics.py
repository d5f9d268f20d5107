"""Metrics of a run, by round: what was paid for, what was reused, what came of it."""

from collections import defaultdict
from typing import Any

# What a run pays for; what it finds instead; how much of a round is its own, whoever found it.
_PAID = {
    "generated_tokens": ("reused_tokens", "own_tokens"),
    "teacher_tokens_scored": ("teacher_tokens_reused", "teacher_tokens_own"),
}


def by_round(metrics: list[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return round -> stage -> its numbers; seconds add up over starts, results are the last ones.

    Tokens count as paid for where this run made them, in whichever start, and as reused where
    another did. Evaluations with other problems or settings than the last round's are left out.
    """
    asked = _last_asked(metrics)
    out: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in metrics:
        if "asked" in line and line["stage"] == "evaluate" and line["asked"] != asked:
            continue
        before = out[line["round"]].get(line["stage"], {})
        seconds = before.get("seconds", 0) + line["seconds"]
        out[line["round"]][line["stage"]] = {**line, **_paid(line), "seconds": seconds}
    return dict(sorted(out.items()))


def _paid(line: dict[str, Any]) -> dict[str, int]:
    """Return a line's costs, counted over all starts of the run."""
    costs = {}
    for paid, (found, own) in _PAID.items():
        if own in line:
            costs |= {paid: line[own], found: line[paid] + line[found] - line[own]}
    return costs


def _last_asked(metrics: list[dict[str, Any]]) -> str | None:
    """Return what was asked in the evaluation of the highest round, the last one of it."""
    lines = [m for m in metrics if m["stage"] == "evaluate" and "asked" in m]
    last = max((m["round"] for m in lines), default=None)
    return next((m["asked"] for m in reversed(lines) if m["round"] == last), None)
