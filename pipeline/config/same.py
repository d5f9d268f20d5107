"""Whether two configs are those of the same run."""

from collections.abc import Iterable
from typing import Any

from .run import RunConfig
from .toml import make_config


def same_run(before: dict[str, Any], now: RunConfig) -> list[str]:
    """Return the dotted keys in which a run's stored config differs from the one given now.

    What only decides how far a run goes, where it runs or how fast, may differ: fields that are
    marked `NOT_IN_KEY`.
    """
    # settings that are newer than the run stand at their defaults
    known = make_config(before, "the config stored with the run")
    old, new = dict(_flat(known.identity())), dict(_flat(now.identity()))
    for key in ("rollout.engine", "train.tail"):
        if new[key] == "auto":  # the run keeps what it was begun with
            new[key] = old[key]
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
