"""`tip compare`: play, then show and write the tables."""

from collections.abc import Sequence
from pathlib import Path

from ...storage.errors import ConfigError
from ...storage.files import unwritable, user_path
from ..config.run import RunConfig
from ..progress import Reporter, Stopwatch
from ..session import look_at
from ..show.compare import console, show, show_plain, write
from .checks import jobs_of
from .play import compare
from .rows import rows_of
from .table import tables_of


def compare_and_show(
    config: RunConfig,
    *,
    rules: Sequence[str],
    keeps: Sequence[str],
    vary: Sequence[str],
    seeds: int,
    workers: int,
    oracle_rollouts: int,
    output: Path | None,
) -> None:
    """Play a comparison; print its tables and write them beside the runs."""
    reporter, watch = Reporter(), Stopwatch()
    folder = output or user_path(config.runs) / f"{config.name}-compare"
    _check_folder(folder)
    rows = rows_of([rule.strip() for rule in rules], _shares(keeps), vary)
    jobs = jobs_of(config, rows, range(seeds), reporter)
    size = f"{len(jobs) // seeds} rows x {seeds} seeds"
    reporter.say(
        f"compare: {size} = {len(jobs)} runs of {config.rounds} rounds, {workers} at a time"
    )
    outcomes, teacher = compare(jobs, workers, reporter)
    session = look_at(jobs[0].config, reporter)
    results = tables_of(outcomes, teacher, session, oracle_rollouts)
    out = console()
    for name, frame in results.items():
        if name == "rules":
            show(frame, out)
        else:
            show_plain(name, frame, out)
    about = (
        f"{size}, {config.rounds} rounds; differences are paired by "
        "seed, in points of accuracy, with 95 % t intervals; p-values are adjusted (Holm). "
        "*equal*: the interval lies within 2 points; *better* or *worse*: adjusted p below 5 %; "
        "else, and with fewer than 3 seeds, *unsettled*."
    )
    page = write(folder, results, about)
    reporter.say(f"{watch.seconds:.0f} s; written to {page} and beside it as Parquet")


def _check_folder(folder: Path) -> None:
    """Show that the tables' folder is there or can be made: before hours of work, not after."""
    if (why := unwritable(folder)) is not None:
        raise ConfigError(f"--output {folder}: {why}; name another folder")


def _shares(texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise ConfigError(
            f"--keep {','.join(texts)}: expected numbers in (0, 1] with commas between, "
            "such as 0.5,0.2"
        ) from error
