"""What a run is and what it took: settings beside their defaults, keys, hashes, versions, bytes."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ...stages.select.rulebook import taken
from ...storage.facts import TokensFacts
from ...storage.store.store import Artifact
from .source import Source

_KINDS = ("rollouts", "teacher", "tokens", "selection", "checkpoint")


def about(source: Source) -> dict[str, Any]:
    """Return what a run is, in a few words."""
    config, record = source.config, source.record
    select = config.select
    keep, number = taken(select.rule, select.keep, select.count)
    return {
        "name": config.name,
        "student": config.student.model,
        "teacher": config.teacher.model,
        "rule": select.rule,
        "keep": keep,
        "count": number,
        "where": select.where,
        "loss": config.train.loss,
        "rounds": config.rounds,
        "trained": source.trained,
        "drawn": config.score.support == "sampled",
        "branch": None if record.branch is None else record.branch.model_dump(mode="json"),
        "replay": config.rollout.replay,
    }


def settings(source: Source) -> list[dict[str, Any]]:
    """Return every setting: section, key, value, its default where it has one, what it means."""
    return list(_settings("", source.config))


def _settings(section: str, values: BaseModel) -> Iterator[dict[str, Any]]:
    fields = type(values).model_fields
    for name, field in fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            yield from _settings(f"{section}{name}.", value)
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield {
            "key": f"{section}{name}",
            "value": _plain(value),
            "default": _plain(default),
            "required": field.is_required(),
            "changed": field.is_required() or value != default,
            "meaning": " ".join((field.description or "").split()),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def artifacts(source: Source) -> list[dict[str, Any]]:
    """Return a line a round and kind of artifact: keys, versions, bytes, rows, who made them."""
    lines = []
    for number, pointers in source.pointers.items():
        for kind in _KINDS:
            found = [source.session.store.find(kind, key) for key in pointers.of(kind)]
            there = [artifact for artifact in found if artifact is not None]
            if found:
                lines.append(_line(number, kind, list(pointers.of(kind)), there))
    return lines


def _line(number: int, kind: str, keys: list[str], there: list[Artifact]) -> dict[str, Any]:
    modes = {TokensFacts.of(a).mode for a in there} if kind == "tokens" else set()
    approximate = "support" in modes
    return {
        "round": number,
        "kind": kind,
        "keys": keys,
        "content": [artifact.content for artifact in there],
        "gone": len(keys) - len(there),
        "bytes": sum(artifact.bytes for artifact in there),
        "rows": sum(artifact.rows for artifact in there),
        "versions": sorted({str(a.inputs.get("version", "")) for a in there}),
        "mode": "support" if approximate else "exact" if modes else "",
    }
