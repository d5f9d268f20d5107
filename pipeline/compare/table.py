"""The results of a comparison: what its rows came to, and what they cost."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..metrics import EvaluateMetrics
from .measures import Measure
from .paired import Difference
from .play import Outcome
from .rows import ALL, ALL_TOKENS, RANDOM, Row, Tokens

REACHED = 0.9  # share of the all-token gain for which the steps are counted


@dataclass(frozen=True)
class Judged:
    """The rows of a comparison by one measure. rates: at which learning rates, in words."""

    measure: Measure
    rates: str
    frame: pl.DataFrame

    @property
    def title(self) -> str:
        """Return the table's name."""
        return ", ".join(filter(None, (self.measure.name, self.rates)))


def judged(
    outcomes: Iterable[Outcome],
    measure: Measure,
    teacher: EvaluateMetrics | None = None,
    rates: str = "",
) -> Judged:
    """Return the comparison by a measure, a row a line: student before and teacher first.

    Values and differences in the measure's unit; `verdict` columns as in `paired.compare_to`. Where
    what all tokens gained is not settled, no share of it is kept and no 90 % of it are reached:
    those columns are null. So is what some outcome lacks. teacher: what it answered; None leaves
    its line out.
    """
    by_row = _by_row(outcomes)
    values = {row: [_known(measure.of(o.result)) for o in every] for row, every in by_row.items()}
    to_all = measure.judge(ALL_TOKENS, values)
    befores = [_known(measure.of(o.curve[0][1])) for o in by_row[ALL_TOKENS]]
    before, gain = float(np.mean(befores)), settled_gain(befores, values[ALL_TOKENS], measure)
    lines: list[dict[str, Any]] = [
        {"row": "student before", "value": before, "seeds": len(befores)}
    ]
    if teacher is not None and (value := measure.of(teacher)) is not None:
        lines.append({"row": "teacher", "value": value})
    for row, every in by_row.items():
        differences = {"all": to_all[row], "random": _to_random(row, values, measure)}
        lines.append(_line(row, every, measure, differences, before, gain))
    return Judged(measure, rates, pl.DataFrame(lines, infer_schema_length=None))


def costs_of(outcomes: Iterable[Outcome]) -> pl.DataFrame:
    """Return what each row took: means over seeds, teacher tokens summed, the largest memory."""
    return pl.DataFrame(
        [
            {
                "row": row.name,
                "seeds": len(every),
                "lr": every[0].lr,
                "trained_tokens": float(np.mean([o.trained_tokens for o in every])),
                "teacher_scored": sum(o.teacher_scored for o in every),
                "teacher_reused": sum(o.teacher_reused for o in every),
                "seconds": float(np.mean([o.seconds for o in every])),
                "peak_memory_mb": max(o.peak_memory_mb for o in every),
                "peak_gpu_memory_mb": max(o.peak_gpu_memory_mb or 0 for o in every) or None,
                "lost_ground": sum(o.lost_ground for o in every),
            }
            for row, every in _by_row(outcomes).items()
        ],
        infer_schema_length=None,
    )


def settled_gain(
    befores: Sequence[float], afters: Sequence[float], measure: Measure
) -> float | None:
    """Return by how much a measure rose, seed by seed; None where no gain is settled.

    Settled as better, and the whole interval beyond the measure's margin: a share of a gain that
    may be none is noise divided by noise, whatever the mean says.
    """
    found = measure.judge("before", {"before": befores, "after": afters})["after"]
    least = min(abs(found.low), abs(found.high))
    return found.mean if found.verdict == "better" and least > measure.within(befores) else None


def _by_row(outcomes: Iterable[Outcome]) -> dict[Row, list[Outcome]]:
    by_row: dict[Row, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        by_row.setdefault(outcome.row, []).append(outcome)
    return by_row


def _known(value: float | None) -> float:
    assert value is not None  # `measures_of` has asked for what is measured
    return value


def _to_random(row: Row, values: dict[Row, list[float]], measure: Measure) -> Difference | None:
    """Compare with random at the same budget and settings; such rows are adjusted together."""
    baseline = replace(row, rule=RANDOM)
    if baseline not in values or row.rule == ALL:
        return None
    alike = {
        each: found
        for each, found in values.items()
        if (each.budget, each.changes) == (row.budget, row.changes)
    }
    return measure.judge(baseline, alike)[row]


def _line(
    row: Row,
    every: Sequence[Outcome],
    measure: Measure,
    differences: dict[str, Difference | None],
    before: float,
    gain: float | None,
) -> dict[str, Any]:
    values = [_known(measure.of(o.result)) for o in every]
    mean = float(np.mean(values))
    found = [] if gain is None else _steps_to(every, measure, before + REACHED * gain)
    line = {
        "row": row.name,
        "rule": row.rule,
        "keep": None if isinstance(row.budget, Tokens) else row.budget,
        "count": row.budget.count if isinstance(row.budget, Tokens) else None,
        "refresh": row.refresh,
        "changes": " ".join(row.changes),
        "lr": every[0].lr,
        "seeds": len(every),
        "value": mean,
        "sd": float(np.std(values, ddof=1)) if len(every) > 1 else None,
        "gain_kept": None if gain is None else (mean - before) / gain,
        "steps_to_90": float(np.mean(found)) if len(found) == len(every) else None,
        "reached_90": None if gain is None else len(found),
    }
    for name, difference in differences.items():
        values = asdict(difference) if difference else {}
        line |= {
            f"{key}_to_{name}": values.get(key) for key in ("mean", "low", "high", "p", "verdict")
        }
    return line


def _steps_to(every: Sequence[Outcome], measure: Measure, wanted: float) -> list[int]:
    """Return the optimiser steps after which each seed was as good as wanted, if it was."""
    sign = 1 if measure.more_is_better else -1
    reached = [
        [steps for steps, then in o.curve if sign * _known(measure.of(then)) >= sign * wanted]
        for o in every
    ]
    return [steps[0] for steps in reached if steps]
