"""The tables of a comparison: what its rows came to, and how its rules differ in one round."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl

from ..session import Session
from .overlap import jaccard, places, rank_correlation, round_of, to_oracle
from .paired import Difference, compare_to
from .play import Outcome
from .rows import ALL, NO_REFRESH, RANDOM, UNRANKED, Row, percent

REACHED = 0.9  # share of the all-token gain for which the steps are counted


def tables_of(
    outcomes: Sequence[Outcome], teacher: float | None, session: Session, oracle_rollouts: int
) -> dict[str, pl.DataFrame]:
    """Return the tables of a comparison by name: rules, overlap, places, oracle.

    session: of the run whose first round tells how the rules differ; every row of its seed shares
    it. oracle_rollouts: how many of them the oracle is asked for; 0: there is no such table.
    """
    results = {"rules": table_of(outcomes, teacher)}
    rows = list(dict.fromkeys(outcome.row for outcome in outcomes))
    tables = round_of(session, 0)
    ranked = [rule for rule in dict.fromkeys(row.rule for row in rows) if rule not in UNRANKED]
    for keep in sorted({row.keep for row in rows if row.keep < 1}, reverse=True):
        names = [RANDOM, *ranked]
        results[f"common tokens at {percent(keep)}"] = jaccard(session, tables, names, keep)
    results["rank correlation of importance"] = rank_correlation(session, tables, ranked)
    results["where the types lie"] = places(session, tables)
    if oracle_rollouts:
        results["oracle"] = to_oracle(session, tables, ranked, oracle_rollouts)
    return results


def table_of(outcomes: Iterable[Outcome], teacher: float | None) -> pl.DataFrame:
    """Return the comparison, a row a line: initial student and teacher first, then as played.

    Accuracies and differences in points; `verdict` columns as in `paired.compare_to`. Where all
    tokens gained nothing, there is no gain to keep or to reach 90 % of: those columns are null.
    teacher: its accuracy; None leaves its line out.
    """
    by_row: dict[Row, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        by_row.setdefault(outcome.row, []).append(outcome)
    accuracies = {row: [o.accuracy for o in every] for row, every in by_row.items()}
    to_all = compare_to(Row(ALL, 1.0), accuracies)
    before = float(np.mean([o.curve[0][1] for o in by_row[Row(ALL, 1.0)]]))
    gain = float(np.mean(accuracies[Row(ALL, 1.0)])) - before
    lines: list[dict[str, Any]] = [
        {"row": "student before", "accuracy": before, "seeds": len(by_row[Row(ALL, 1.0)])}
    ]
    if teacher is not None:
        lines.append({"row": "teacher", "accuracy": teacher})
    for row, every in by_row.items():
        lines.append(_line(row, every, to_all[row], _to_random(row, accuracies), before, gain))
    return pl.DataFrame(lines, infer_schema_length=None)


def _to_random(row: Row, accuracies: dict[Row, list[float]]) -> Difference | None:
    """Compare with random at the same budget and settings; such rows are adjusted together."""
    baseline = replace(row, rule=RANDOM)
    if baseline not in accuracies or row.rule in (ALL, NO_REFRESH):
        return None
    alike = {
        each: values
        for each, values in accuracies.items()
        if (each.keep, each.changes) == (row.keep, row.changes)
    }
    return compare_to(baseline, alike)[row]


def _line(
    row: Row,
    every: Sequence[Outcome],
    to_all: Difference,
    to_random: Difference | None,
    before: float,
    gain: float,
) -> dict[str, Any]:
    mean = float(np.mean([o.accuracy for o in every]))
    divergences = [o.reverse_kl for o in every if o.reverse_kl is not None]
    gained = gain > 0
    reached = [_steps_to(o.curve, before + REACHED * gain) for o in every if gained]
    found = [steps for steps in reached if steps is not None]
    line = {
        "row": row.name,
        "rule": row.rule,
        "keep": row.keep,
        "changes": " ".join(row.changes),
        "seeds": len(every),
        "accuracy": mean,
        "sd": float(np.std([o.accuracy for o in every], ddof=1)) if len(every) > 1 else None,
        "gain_kept": (mean - before) / gain if gained else None,
        "reverse_kl": float(np.mean(divergences)) if divergences else None,
        "steps_to_90": float(np.mean(found)) if len(found) == len(every) else None,
        "reached_90": len(found) if gained else None,
        "trained_tokens": float(np.mean([o.trained_tokens for o in every])),
        "teacher_scored": sum(o.teacher_scored for o in every),
        "teacher_reused": sum(o.teacher_reused for o in every),
        "seconds": float(np.mean([o.seconds for o in every])),
        "peak_memory_mb": max(o.peak_memory_mb for o in every),
        "peak_gpu_memory_mb": max(o.peak_gpu_memory_mb or 0 for o in every) or None,
        "lost_ground": sum(o.lost_ground for o in every),
    }
    for name, difference in (("all", to_all), ("random", to_random)):
        values = asdict(difference) if difference else {}
        line |= {
            f"{key}_to_{name}": values.get(key) for key in ("mean", "low", "high", "p", "verdict")
        }
    return line


def _steps_to(curve: Sequence[tuple[int, float]], accuracy: float) -> int | None:
    return next((steps for steps, reached in curve if reached >= accuracy), None)
