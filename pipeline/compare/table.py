"""The tables of a comparison: what its rows came to, and how its rules differ in one round."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...stages.select.settings import SelectSettings
from ...storage.runs import RoundPointers
from ..executors.here import Here
from ..rounds.replay import stored
from ..session import Session
from .oracle import to_oracle
from .overlap import jaccard, rank_correlation
from .paired import EQUAL_WITHIN, Difference, compare_to
from .placement import placement
from .play import Outcome
from .rows import ALL, ALL_TOKENS, RANDOM, UNRANKED, Row, budget
from .scored import ScoredRound

REACHED = 0.9  # share of the all-token gain for which the steps are counted


def tables_of(
    outcomes: Sequence[Outcome],
    teacher: float | None,
    session: Session,
    select: SelectSettings,
    oracle_rollouts: int,
) -> dict[str, pl.DataFrame]:
    """Return the tables of a comparison by name: rules, overlap, placement, oracle.

    A table that would have nothing to say is left out, such as one of a rule beside itself.
    session: of the run whose first round tells how the rules differ; every row of its seed shares
    it. select: the config's own. oracle_rollouts: how many of them the oracle is asked for; 0:
    there is no such table.
    """
    results = {"rules": table_of(outcomes, teacher)}
    rows = list(dict.fromkeys(outcome.row for outcome in outcomes))
    scored = replace(scored_round(session, 0), settings=select)
    ranked = [rule for rule in dict.fromkeys(row.rule for row in rows) if rule not in UNRANKED]
    if ranked:
        for keep in sorted({row.keep for row in rows if row.keep < 1}, reverse=True):
            names = [RANDOM, *ranked]
            results[f"common tokens at {budget(keep)}"] = jaccard(scored, names, keep)
    if len(ranked) > 1:
        results["rank correlation of importance"] = rank_correlation(scored, ranked)
    results["where the types lie"] = placement(scored, session.inputs.student_card.tokenizer)
    if oracle_rollouts and ranked:
        results["oracle"] = _to_oracle(session, scored, ranked, oracle_rollouts)
    return results


def scored_round(session: Session, number: int) -> ScoredRound:
    """Return the tables of a round of a run. Raises `StoreError` where one is gone."""
    pointers = session.run.round(number) or RoundPointers()

    def paths(kind: str) -> tuple[Path, ...]:
        found = stored(session, kind, pointers.of(kind))
        return tuple(session.store.path(artifact, kind) for artifact in found)

    config = session.config
    return ScoredRound(
        rollouts=paths("rollouts"),
        teacher=paths("teacher"),
        tokens=paths("tokens"),
        settings=config.select,
        seed=config.seed,
        vocabulary=session.inputs.student_card.head_rows,
        threads=config.threads,
    )


def _to_oracle(
    session: Session, scored: ScoredRound, rules: Sequence[str], rollouts: int
) -> pl.DataFrame:
    here, loss = Here(session.config, session.store, session.reporter), session.config.train.loss
    try:
        student = here.holder.trainee(session.student(0))
        with session.reporter.bar("oracle", rollouts, "rollouts") as tick:
            return to_oracle(scored, rules, rollouts, student, loss, tick)
    finally:
        here.close()


def table_of(outcomes: Iterable[Outcome], teacher: float | None) -> pl.DataFrame:
    """Return the comparison, a row a line: initial student and teacher first, then as played.

    Accuracies and differences in points; `verdict` columns as in `paired.compare_to`. Where what
    all tokens gained is not settled, no share of it is kept and no 90 % of it are reached: those
    columns are null. teacher: its accuracy; None leaves its line out.
    """
    by_row: dict[Row, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        by_row.setdefault(outcome.row, []).append(outcome)
    accuracies = {row: [o.accuracy for o in every] for row, every in by_row.items()}
    to_all = compare_to(ALL_TOKENS, accuracies)
    befores = [o.curve[0][1] for o in by_row[ALL_TOKENS]]
    before, gain = float(np.mean(befores)), settled_gain(befores, accuracies[ALL_TOKENS])
    lines: list[dict[str, Any]] = [
        {"row": "student before", "accuracy": before, "seeds": len(befores)}
    ]
    if teacher is not None:
        lines.append({"row": "teacher", "accuracy": teacher})
    for row, every in by_row.items():
        lines.append(_line(row, every, to_all[row], _to_random(row, accuracies), before, gain))
    return pl.DataFrame(lines, infer_schema_length=None)


def settled_gain(befores: Sequence[float], afters: Sequence[float]) -> float | None:
    """Return what was gained from before to after, seed by seed; None where it is not settled.

    Settled as better, and the whole interval beyond `EQUAL_WITHIN`: a share of a gain that may be
    none is noise divided by noise, whatever the mean says.
    """
    found = compare_to("before", {"before": befores, "after": afters})["after"]
    return found.mean if found.verdict == "better" and found.low > EQUAL_WITHIN else None


def _to_random(row: Row, accuracies: dict[Row, list[float]]) -> Difference | None:
    """Compare with random at the same budget and settings; such rows are adjusted together."""
    baseline = replace(row, rule=RANDOM)
    if baseline not in accuracies or row.rule == ALL:
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
    gain: float | None,
) -> dict[str, Any]:
    mean = float(np.mean([o.accuracy for o in every]))
    divergences = [o.reverse_kl for o in every if o.reverse_kl is not None]
    found = [] if gain is None else _steps_to(every, before + REACHED * gain)
    line = {
        "row": row.name,
        "rule": row.rule,
        "keep": row.keep,
        "refresh": row.refresh,
        "changes": " ".join(row.changes),
        "seeds": len(every),
        "accuracy": mean,
        "sd": float(np.std([o.accuracy for o in every], ddof=1)) if len(every) > 1 else None,
        "gain_kept": None if gain is None else (mean - before) / gain,
        "reverse_kl": float(np.mean(divergences)) if divergences else None,
        "steps_to_90": float(np.mean(found)) if len(found) == len(every) else None,
        "reached_90": None if gain is None else len(found),
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


def _steps_to(every: Sequence[Outcome], accuracy: float) -> list[int]:
    """Return the optimiser steps after which each seed reached an accuracy, if it did."""
    reached = [[steps for steps, then in o.curve if then >= accuracy] for o in every]
    return [steps[0] for steps in reached if steps]
