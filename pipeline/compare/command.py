"""`tip compare`: play, then show and write the tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from ...storage.errors import ConfigError
from ...storage.files import unwritable, user_path
from ..config.run import RunConfig
from ..metrics import EvaluateMetrics
from ..progress import Reporter, Stopwatch
from ..session import look_at
from .checks import Job, jobs_of
from .choices import tables_of
from .measures import Measure, measures_of
from .page import console, show, show_answers, show_plain, write
from .play import Outcome, ask_teacher, compare, has_ended, run_seconds, try_rates
from .rates import TUNING_SEED, Rates, best_rates, rates_of, rates_table
from .rows import Row, numbers_of_tokens, rows_of, shares
from .table import Judged, costs_of, judged


def compare_and_show(
    config: RunConfig,
    *,
    rules: Sequence[str],
    keeps: Sequence[str],
    counts: Sequence[str],
    vary: Sequence[str],
    factors: Sequence[str],
    metrics: Sequence[str],
    seeds: int,
    workers: int,
    oracle_rollouts: int,
    output: Path | None,
    dry: bool = False,
) -> None:
    """Play a comparison; print its tables and write them beside the runs.

    dry: only say which runs it would play.
    """
    reporter, watch = Reporter(), Stopwatch()
    folder = output or user_path(config.runs) / f"{config.name}-compare"
    _check_folder(folder)
    budgets = [*shares(keeps), *numbers_of_tokens(counts)]
    rows = rows_of([rule.strip() for rule in rules], budgets, vary)
    rates = rates_of(factors, config.train.lr, rows)
    at_rates = dict.fromkeys(each for row in rows for each in rates.grid(row).values())
    # every run that may be played, so that each is known to be playable before the first is
    played = [*range(seeds), *([TUNING_SEED] if rates.tuned else [])]
    jobs = jobs_of(config, list(at_rates), played, reporter)
    measures = measures_of(metrics, [job.config for job in jobs])
    rows = [row for row in rows if any(job.row == row for job in jobs)]
    if dry:
        _say_plan(jobs, rows, rates, seeds)
        return
    teacher = ask_teacher(jobs[0].config, reporter)
    best, others = dict.fromkeys(rows, 1.0), dict[str, pl.DataFrame]()
    if rates.tuned:
        best, tried = _tuned(jobs, rates, rows, measures[0], workers, reporter)
        others[f"{measures[0].name} of seed {TUNING_SEED} by learning rate"] = tried

    chosen = {*rows, *(rates.grid(row)[best[row]] for row in rows)}
    wanted = [job for job in jobs if job.seed != TUNING_SEED and job.row in chosen]
    size = f"{len(wanted) // seeds} rows x {seeds} seeds"
    reporter.say(
        f"compare: {size} = {len(wanted)} runs of {config.rounds} rounds, {workers} at a time"
    )
    outcomes = compare(wanted, workers, reporter)
    results, costs = _judge(outcomes, rows, rates, best, measures, teacher)
    others |= tables_of(rows, look_at(jobs[0].config, reporter), config.select, oracle_rollouts)
    out = console()
    show(results, costs, out)
    for name, frame in others.items():
        show_plain(name, frame, out)
    show_answers(results, out)
    page = write(folder, results, costs, others, _about(size, config.rounds, measures, rates))
    reporter.say(f"{watch.seconds:.0f} s; written to {page} and beside it as Parquet")


def _say_plan(jobs: Sequence[Job], rows: Sequence[Row], rates: Rates, seeds: int) -> None:
    """Print which runs would be played, and what is known of how long they take."""
    tuning = [job for job in jobs if job.seed == TUNING_SEED]
    at_config = [job for job in jobs if job.seed != TUNING_SEED and job.row in rows]
    for row in rows:
        print(f"  {row.name}")
    runs = [*tuning, *at_config]
    ended = [job for job in runs if has_ended(job.config)]
    told = f"{len(rows)} rows x {seeds} seeds = {len(at_config)} runs"
    if tuning:
        told += (
            f", {len(rows)} rows x {len(rates.factors)} rates = {len(tuning)} runs to choose "
            f"learning rates, and up to {len(at_config)} at those chosen"
        )
    print(f"{told}; {len(ended)} of them have ended before")
    if ended:
        seconds = [run_seconds(job.config) for job in ended]
        print(f"those took {sum(seconds) / len(seconds):,.0f} s each")


def _tuned(
    jobs: Sequence[Job],
    rates: Rates,
    rows: Sequence[Row],
    measure: Measure,
    workers: int,
    reporter: Reporter,
) -> tuple[dict[Row, float], pl.DataFrame]:
    """Return the factor at which each row is best on the tuning seed, and the table behind it."""
    tuning = [job for job in jobs if job.seed == TUNING_SEED]
    reporter.say(
        f"learning rates: {len(rows)} rows x {len(rates.factors)} rates = {len(tuning)} runs of "
        f"seed {TUNING_SEED}, judged by {measure.name}; `--lr 1` leaves them out"
    )
    outcomes = try_rates(tuning, workers, reporter)
    tried = {job.row: outcome for job, outcome in zip(tuning, outcomes, strict=True)}
    best = best_rates(rates, rows, tried, measure)
    return best, rates_table(rates, rows, tried, best, measure)


def _judge(
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    rates: Rates,
    best: dict[Row, float],
    measures: Sequence[Measure],
    teacher: EvaluateMetrics | None,
) -> tuple[list[Judged], pl.DataFrame]:
    """Return each measure's tables, at the best rates first, and what the rows of those took."""
    own = [outcome for outcome in outcomes if outcome.row in rows]
    if not rates.tuned:
        return [judged(own, measure, teacher) for measure in measures], costs_of(own)
    at_best = [
        replace(outcome, row=row)
        for row in rows
        for outcome in outcomes
        if outcome.row == rates.grid(row)[best[row]]
    ]
    results = [
        judged(given, measure, teacher, title)
        for measure in measures
        for given, title in ((at_best, "each at its best rate"), (own, "all at the config's rate"))
    ]
    return results, costs_of(at_best)


def _about(size: str, rounds: int, measures: Sequence[Measure], rates: Rates) -> str:
    tuned = (
        f" Best rates were chosen on seed {TUNING_SEED}, from which no verdict is taken, by "
        f"{measures[0].name}."
        if rates.tuned
        else ""
    )
    return (
        f"{size}, {rounds} rounds; differences are paired by seed, with 95 % t intervals; p-values "
        "are adjusted (Holm). *equal*: the interval lies within the measure's margin; *better* or "
        "*worse*: adjusted p below 5 %; else, and with fewer than 3 seeds, *unsettled*. Judged: "
        f"{'; '.join(measure.about for measure in measures)}.{tuned}"
    )


def _check_folder(folder: Path) -> None:
    """Show that the tables' folder is there or can be made: before hours of work, not after."""
    if (why := unwritable(folder)) is not None:
        raise ConfigError(f"--output {folder}: {why}; name another folder")
