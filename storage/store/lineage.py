"""What was made from what: each artifact names in its inputs those that it was made from."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from .artifacts import Artifact


def descendants(artifacts: Iterable[Artifact], origins: Iterable[Artifact]) -> list[Artifact]:
    """Return those of some artifacts that were made from others, at however many removes.

    An artifact is named by its key, a trained student also by the fingerprint of its weights.
    """
    new = list(origins)
    if not new:
        return []
    made_from: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        for text in set(_texts(artifact.inputs)):
            made_from[text].append(artifact)
    seen, found = {(a.kind, a.key) for a in new}, list[Artifact]()
    while new:  # one remove after the other
        children = [a for of in new for name in _names(of) for a in made_from.get(name, ())]
        new = list({(a.kind, a.key): a for a in children if (a.kind, a.key) not in seen}.values())
        seen.update((a.kind, a.key) for a in new)
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
