"""Which tokens matter for a pair of models: rules x budgets x seeds, from shared artifacts.

Within a seed all rows share prompts, noise, the first rollouts and their teacher signals; then
each goes on-policy on its own. Seeds share nothing but the models. Beside the rules stand the
controls: all tokens, random tokens at each budget, and no refresh (every rollout from the first
student). Runs are ordinary runs: they resume, and what exists is not played again.
"""

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..storage.errors import ConfigError
from ..storage.runs import RunFolder
from .compare_rows import ALL, NO_REFRESH, RANDOM, UNRANKED, Row, percent, run_config
from .config import RunConfig
from .paired import Difference, compare_to
from .progress import Reporter
from .stability import rounds_that_lost_ground
from .status import by_round

REACHED = 0.9  # share of the all-token gain for which the steps are counted


@dataclass(frozen=True)
class Outcome:
    """What a run came to; accuracies in points, tokens and seconds summed over its rounds.

    lost_ground: whether the student lost, in a round, what it was not trained on. curve: accuracy
    by optimiser steps.
    """

    row: Row
    seed: int
    accuracy: float
    reverse_kl: float | None
    trained_tokens: int
    teacher_scored: int
    teacher_reused: int
    seconds: float
    peak_memory_mb: int
    lost_ground: bool
    curve: tuple[tuple[int, float], ...]


def compare(
    config: RunConfig, rows: Sequence[Row], seeds: Sequence[int], workers: int, reporter: Reporter
) -> list[Outcome]:
    """Play all runs, `workers` at a time, and return what they came to."""
    if config.evaluate is None:
        raise ConfigError("compare needs an [evaluate] section: add one with problems and answers")
    jobs = [(row, seed, run_config(config, row, seed)) for seed in seeds for row in rows]
    with reporter.bar("compare", len(jobs), "runs") as tick:
        if workers == 1:
            for _, _, each in jobs:
                _play(each.model_dump_json())
                tick(1)
        else:
            _play_together([each for _, _, each in jobs], workers, tick)
    return [_outcome(row, seed, RunFolder(each.runs, each.name)) for row, seed, each in jobs]


def _play_together(configs: Sequence[RunConfig], workers: int, tick: Any) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = [pool.submit(_play, each.model_dump_json()) for each in configs]
        try:
            for done in as_completed(waiting):
                done.result()
                tick(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _play(text: str) -> None:
    """Play one run to its end unless it is there already; in a process of its own or not."""
    from .rounds import play
    from .session import Session

    config = RunConfig.model_validate_json(text)
    if _finished(config):
        return
    play(Session(config, Reporter(quiet=True)))


def _finished(config: RunConfig) -> bool:
    """Tell whether a run of this very config has its last evaluation: then nothing is loaded."""
    run = RunFolder(config.runs, config.name)
    stored = run.config()
    if stored is None or stored["config"] != config.model_dump(mode="json"):
        return False
    return any(m["stage"] == "evaluate" and m["round"] == config.rounds for m in run.metrics())


def _outcome(row: Row, seed: int, run: RunFolder) -> Outcome:
    rounds = by_round(run.metrics())
    stages = [stages for _, stages in sorted(rounds.items())]
    steps, curve = 0, []
    for numbers in stages:
        if "evaluate" in numbers:
            curve.append((steps, 100 * numbers["evaluate"]["accuracy"]))
        steps += numbers.get("train", {}).get("steps", 0)
    last = stages[-1]["evaluate"]

    def total(stage: str, name: str) -> float:
        return sum(s[stage].get(name, 0) for s in stages if stage in s)

    return Outcome(
        row,
        seed,
        100 * last["accuracy"],
        last.get("reverse_kl"),
        int(total("train", "trained_tokens")),
        int(total("score", "teacher_tokens_scored")),
        int(total("score", "teacher_tokens_reused")),
        sum(s["seconds"] for numbers in stages for s in numbers.values()),
        max(s["peak_memory_mb"] for numbers in stages for s in numbers.values()),
        bool(rounds_that_lost_ground(rounds)),
        tuple(curve),
    )


def table_of(outcomes: Iterable[Outcome], teacher: float) -> pl.DataFrame:
    """Return the comparison, a row a line: initial student and teacher first, then as played.

    Accuracies and differences in points; `verdict` columns as in `paired.compare_to`.
    """
    by_row: dict[Row, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        by_row.setdefault(outcome.row, []).append(outcome)
    accuracies = {row: [o.accuracy for o in every] for row, every in by_row.items()}
    to_all = compare_to(Row(ALL, 1.0), accuracies)
    before = float(np.mean([o.curve[0][1] for o in by_row[Row(ALL, 1.0)]]))
    gain = float(np.mean(accuracies[Row(ALL, 1.0)])) - before
    lines = [
        {"row": "student before", "accuracy": before, "seeds": len(by_row[Row(ALL, 1.0)])},
        {"row": "teacher", "accuracy": teacher},
    ]
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
    reached = [_steps_to(o.curve, before + REACHED * gain) for o in every]
    found = [steps for steps in reached if steps is not None]
    line = {
        "row": row.name,
        "rule": row.rule,
        "keep": row.keep,
        "changes": " ".join(row.changes),
        "seeds": len(every),
        "accuracy": mean,
        "sd": float(np.std([o.accuracy for o in every], ddof=1)) if len(every) > 1 else None,
        "gain_kept": (mean - before) / gain if gain else None,
        "reverse_kl": float(np.mean(divergences)) if divergences else None,
        "steps_to_90": float(np.mean(found)) if len(found) == len(every) else None,
        "reached_90": len(found),
        "trained_tokens": float(np.mean([o.trained_tokens for o in every])),
        "teacher_scored": sum(o.teacher_scored for o in every),
        "teacher_reused": sum(o.teacher_reused for o in every),
        "seconds": float(np.mean([o.seconds for o in every])),
        "peak_memory_mb": max(o.peak_memory_mb for o in every),
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


def compare_all(
    config: RunConfig,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    workers: int,
    oracle_rollouts: int,
    reporter: Reporter,
) -> dict[str, pl.DataFrame]:
    """Play the comparison and return its tables by name: rules, overlap, places, oracle."""
    from .overlap import jaccard, places, rank_correlation, round_of, to_oracle
    from .session import Session
    from .single import evaluate_teacher

    outcomes = compare(config, rows, seeds, workers, reporter)
    session = Session(run_config(config, Row(ALL, 1.0), seeds[0]), reporter)
    teacher = 100 * evaluate_teacher(session)["accuracy"]
    results = {"rules": table_of(outcomes, teacher)}
    tables = round_of(session, 0)
    ranked = [rule for rule in dict.fromkeys(row.rule for row in rows) if rule not in UNRANKED]
    keeps = sorted({row.keep for row in rows if row.keep < 1}, reverse=True)
    for keep in keeps:
        names = [RANDOM, *ranked]
        results[f"common tokens at {percent(keep)}"] = jaccard(session, tables, names, keep)
    results["rank correlation of importance"] = rank_correlation(session, tables, ranked)
    results["where the types lie"] = places(session, tables)
    if oracle_rollouts:
        results["oracle"] = to_oracle(session, tables, ranked, oracle_rollouts)
    return results
