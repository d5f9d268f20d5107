"""`tip cache import`: a folder of signals, shown to be whole, taken into a store."""

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...storage.content import content_hash
from ...storage.errors import StoreError
from ...storage.files import user_path
from ...storage.store.artifacts import Artifact, damage, read_manifest
from ...storage.store.drafts import Draft
from ...storage.store.store import Store
from ...storage.tables import read_table
from ...storage.visible import visible
from ..progress import Reporter
from .layout import INDEX, KINDS, Index, data_path, manifest_path, read_index

_FROM = {"teacher": "rollouts", "tokens": "teacher"}
"""The kind that each is made from; its inputs name key and content of it by that word."""


def import_signals(folder: str, root: str) -> None:
    """Take a folder of signals into a store, and print what is new in it.

    Every seal, manifest, file and row is checked before anything is committed. Raises `StoreError`
    that names what is damaged or missing; then nothing of the folder is in the store.
    """
    place = user_path(folder)
    if not place.is_dir():
        raise StoreError(f"{folder}: no such folder; fetch it first (hf download ... --local-dir)")
    index = read_index(place)
    artifacts = _whole(place, index)
    store = Store(root)
    new, other = Counter[str](), Counter[str]()
    with Reporter().bar("import", len(artifacts), "artifacts") as tick:
        for artifact in artifacts:
            taken, fresh = store.ensure(artifact.kind, artifact.inputs, _copy(place, artifact))
            new[artifact.kind] += fresh
            other[artifact.kind] += taken.content != artifact.content
            tick(1)
    counts = Counter(artifact.kind for artifact in artifacts)
    said = ", ".join(f"{counts[k]} {k} ({new[k]} new)" for k in KINDS)
    print(visible(f"{len(index.rounds)} rounds of run {index.run} are in {store}: {said}"))
    if differing := sum(other.values()):
        print(
            f"note: {differing} were there already with other content, made elsewhere, and stay as "
            "they are: what the folder has made of its own is not found for them"
        )


def _copy(folder: Path, artifact: Artifact) -> Any:
    def make(draft: Draft) -> dict[str, Any]:
        (part,) = artifact.parts.values()
        draft.adopt(data_path(folder, artifact.kind, artifact.key), part)
        return artifact.facts

    return make


def _whole(folder: Path, index: Index) -> list[Artifact]:
    """Return all artifacts of a folder, those that others are made from first.

    Raises `StoreError` that names the first thing that is wrong, and how many more are.
    """
    known: dict[tuple[str, str], Artifact] = {}
    wrong = [*_unlisted(index)]
    for kind in KINDS:
        for key, digest in index.manifests.get(kind, {}).items():
            try:
                known[kind, key] = _artifact(folder, kind, key, digest)
            except StoreError as error:
                wrong.append(str(error))
    if not wrong:
        wrong += [text for artifact in known.values() for text in _orphaned(artifact, known)]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise StoreError(
            f"{wrong[0]}{more}: nothing of {folder} was taken; copy it again, or ask who made it"
        )
    return list(known.values())


def _unlisted(index: Index) -> Iterator[str]:
    """Say which artifacts a round names and the index does not list."""
    for number, kinds in index.rounds.items():
        for kind in KINDS:
            for key in kinds.get(kind, []):
                if key not in index.manifests.get(kind, {}):
                    yield f"{INDEX}: round {number} names {kind} {key}, which is not listed"


def _artifact(folder: Path, kind: str, key: str, digest: str) -> Artifact:
    """Return an artifact whose manifest and file are as they were written."""
    path, data = manifest_path(folder, kind, key), data_path(folder, kind, key)
    try:
        text = path.read_bytes()
        artifact = read_manifest(text, kind, key)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: damaged ({error})") from error
    if sha256(text).hexdigest() != digest or "seal" not in json.loads(text):
        raise StoreError(f"{path}: not the manifest that {INDEX} names")
    if set(artifact.parts) != {kind}:
        raise StoreError(f"{path}: names the parts {sorted(artifact.parts)}; expected {kind}")
    part = artifact.parts[kind]
    if not data.is_file():
        raise StoreError(f"{data}: missing")
    wrong = damage(data, part)
    if wrong is None and content_hash(read_table([data])) != part.content:
        wrong = "its rows are not those that its manifest names"
    if wrong is not None:
        raise StoreError(f"{data}: {wrong}")
    return artifact


def _orphaned(artifact: Artifact, known: dict[tuple[str, str], Artifact]) -> Iterator[str]:
    """Say where what an artifact was made from is not in the folder, or is another."""
    source = _FROM.get(artifact.kind)
    if source is None:
        return
    named = artifact.inputs.get(source)
    key, content = named if isinstance(named, list) and len(named) == 2 else (None, None)
    parent = known.get((source, str(key)))
    if parent is None or parent.content != content:
        yield f"{artifact.kind} {artifact.key}: the {source} that it was made from is not there"
