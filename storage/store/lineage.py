"""What was made from what: each artifact names in its inputs those that it was made from."""

from collections.abc import Iterable, Iterator
from typing import Any

from .artifacts import Artifact


def descendants(artifacts: Iterable[Artifact], origins: Iterable[Artifact]) -> list[Artifact]:
    """Return those of some artifacts that were made from others, at however many removes.

    An artifact is named by its key, a trained student also by the fingerprint of its weights.
    """
    left = {(a.kind, a.key): a for a in artifacts}
    names, found = set[str](), list[Artifact]()
    for artifact in origins:
        names |= _names(artifact)
        left.pop((artifact.kind, artifact.key), None)
    while new := [a for a in left.values() if not names.isdisjoint(_texts(a.inputs))]:
        for artifact in new:
            names |= _names(artifact)
            del left[artifact.kind, artifact.key]
        found += new
    return found


def _names(artifact: Artifact) -> set[str]:
    fingerprint = artifact.facts.get("fingerprint")
    return {artifact.key, *([fingerprint] if isinstance(fingerprint, str) else [])}


def _texts(value: Any) -> Iterator[str]:
    """Give all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
