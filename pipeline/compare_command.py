"""`tip compare`: play, then show and write the tables."""

from collections.abc import Sequence
from pathlib import Path

from ..storage.errors import ConfigError
from .compare import compare_all
from .compare_report import console, show, show_plain, write
from .compare_rows import rows_of
from .config import RunConfig
from .progress import Reporter, Stopwatch


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
    rows = rows_of([rule.strip() for rule in rules], _shares(keeps), vary)
    reporter.say(
        f"compare: {len(rows)} rows x {seeds} seeds = {len(rows) * seeds} runs of {config.rounds} "
        f"rounds, {workers} at a time"
    )
    results = compare_all(
        config,
        rows,
        range(seeds),
        workers=workers,
        oracle_rollouts=oracle_rollouts,
        reporter=reporter,
    )
    out = console()
    for name, frame in results.items():
        if name == "rules":
            show(frame, out)
        else:
            show_plain(name, frame, out)
    folder = output or Path(config.runs) / f"{config.name}-compare"
    about = (
        f"{len(rows)} rows, {seeds} seeds, {config.rounds} rounds; differences are paired by "
        "seed, in points of accuracy, with 95 % t intervals; p-values are adjusted (Holm). "
        "*equal*: the interval lies within 2 points; *better* or *worse*: adjusted p below 5 %; "
        "else *unsettled*."
    )
    page = write(folder, results, about)
    reporter.say(f"{watch.seconds:.0f} s; written to {page} and beside it as Parquet")


def _shares(texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise ConfigError(
            f"--keep {','.join(texts)}: expected numbers in (0, 1] with commas between, "
            "such as 0.5,0.2"
        ) from error
