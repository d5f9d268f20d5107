"""What plays from Python: a run, a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ...storage.files import user_path
from ..compare.command import compare_and_show
from ..config.run import RunConfig
from ..config.toml import load_config, make_config
from ..progress import Reporter
from ..rounds.play import play
from ..session import open_session
from .run import Run

_OWN_RULES = ("soft_or", "q3", "entropy_top", "entropy_sampled", "divergence")


def run(config: str | Path | dict[str, Any] | RunConfig, *changes: str) -> Run:
    """Play a run to its end and return it; played again, it finds what it has.

    config: a TOML file, plain values, or what `load_config` returned. changes: `key=value`, of a
    file. Raises `TipError`, one line, for what cannot be played. As `tip run` does, it sets the
    threads of this process.
    """
    session = open_session(_config(config, changes), Reporter())
    play(session)
    return Run(session.run)


def compare(
    config: str | Path | dict[str, Any] | RunConfig,
    *changes: str,
    rules: Sequence[str] = _OWN_RULES,
    keep: Sequence[float] = (0.5, 0.2, 0.1),
    count: Sequence[int] = (),
    vary: Sequence[str] = (),
    lr: Sequence[float] = (1, 3, 10),
    metric: Sequence[str] = (),
    seeds: int = 5,
    workers: int = 1,
    oracle: int = 0,
    output: str | Path | None = None,
) -> dict[str, pl.DataFrame]:
    """Play a comparison as `tip compare` does; return its tables by name."""
    settings = _config(config, changes)
    folder = Path(output) if output else user_path(settings.runs) / f"{settings.name}-compare"
    compare_and_show(
        settings,
        rules=list(rules),
        keeps=[str(share) for share in keep],
        counts=[str(number) for number in count],
        vary=list(vary),
        factors=[str(factor) for factor in lr],
        metrics=list(metric),
        seeds=seeds,
        workers=workers,
        oracle_rollouts=oracle,
        output=folder,
    )
    return {path.stem: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def _config(config: str | Path | dict[str, Any] | RunConfig, changes: Sequence[str]) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    if isinstance(config, dict):
        return make_config(config, "config")
    return load_config(Path(config), changes)
