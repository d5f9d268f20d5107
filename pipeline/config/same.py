"""Whether two configs are those of the same run."""

from collections.abc import Iterable
from typing import Any

from .run import RunConfig
from .toml import make_config, section_of

# What may differ when a run is continued: how far it goes, and what only costs time or memory.
_MAY_CHANGE = frozenset({"rounds", "device", "threads", "store", "runs", "evaluate"})


def same_run(before: dict[str, Any], now: RunConfig) -> list[str]:
    """Return the dotted keys in which a run's stored config differs from the one given now.

    What only decides how far a run goes, where it runs or how fast, may differ: fields whose text
    says *Not in a key*, and the evaluation, whose results have keys of their own.
    """
    # settings that are newer than the run stand at their defaults
    known = make_config(before, "the config stored with the run").model_dump(mode="json")
    old, new = dict(_flat(known)), dict(_flat(now.model_dump(mode="json")))
    return [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key.split(".")[0] not in _MAY_CHANGE
        and not _outside_keys(key)
    ]


def _outside_keys(key: str) -> bool:
    kind: Any = RunConfig
    field = None
    for name in key.split("."):
        field = getattr(kind, "model_fields", {}).get(name)
        kind = None if field is None else section_of(field.annotation)
    return field is not None and "*Not in a key*" in (field.description or "")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
