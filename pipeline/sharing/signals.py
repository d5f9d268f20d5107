"""`tip cache export`: a run's rollouts, teacher signals and token tables, as a data set."""

import re
import shutil
from hashlib import sha256
from pathlib import Path

from ...storage.errors import ConfigError, StoreError
from ...storage.files import new_folder
from ...storage.runs import RoundPointers, RunFolder, record_of
from ...storage.store.artifacts import Artifact, manifest
from ...storage.store.store import Store
from ...storage.visible import visible
from ..config.toml import config_of
from ..config.written import public
from ..export import new_place, refuse_inside, unwritten_in_words
from ..show.cells import size
from ..show.parents import parents_of
from ..show.stores import existing_store
from .data_card import data_card
from .layout import FORMAT, KINDS, Index, Kind, Model, data_path, manifest_path


def export_signals(name: str, folder: str, runs: str, rounds: str | None) -> None:
    """Write the signals of a run into a new folder, and print what is in it.

    rounds: such as `0-3` or `0,2`; None for all that are scored. Raises a `TipError` for what is
    not there, before anything is written.
    """
    run = RunFolder(runs, name)
    config = config_of(run)
    target = new_place(folder)
    refuse_inside(target, folder, (config.store, config.runs))
    with unwritten_in_words(folder), new_folder(target) as beside:
        said = write_signals(run, beside, rounds)
    print(visible(f"{target}: {said}. Next: tip cache import {target}, where others run tip"))


def write_signals(run: RunFolder, folder: Path, rounds: str | None) -> str:
    """Write a run's signals into a folder; return what is said of them."""
    config = config_of(run)
    store = existing_store(config.store)
    chosen = _chosen(run, rounds)
    found: dict[Kind, list[Artifact]] = {k: _artifacts(store, k, chosen) for k in KINDS}
    for kind, artifacts in found.items():
        for path in (manifest_path(folder, kind, ""), data_path(folder, kind, "")):
            path.parent.mkdir(parents=True, exist_ok=True)
        for artifact in artifacts:
            shutil.copyfile(store.path(artifact, kind), data_path(folder, kind, artifact.key))
            manifest_path(folder, kind, artifact.key).write_bytes(manifest(artifact))
    parents = parents_of(run, config)
    record = record_of(run)
    fields = ("role", "name", "hub", "revision", "fingerprint", "license")
    index = Index(
        format=FORMAT,
        run=run.name,
        run_id=record.id,
        config=public(config),
        content=record.content or {},
        models=[Model(**{name: getattr(p, name) for name in fields}) for p in parents],
        rounds={n: {k: list(pointers.of(k)) for k in KINDS} for n, pointers in chosen.items()},
        manifests={
            kind: {a.key: sha256(manifest(a)).hexdigest() for a in artifacts}
            for kind, artifacts in found.items()
        },
    )
    index.write(folder)
    card = data_card(index, run, config, parents, found)
    (folder / "README.md").write_text(card, encoding="utf-8")
    whole = [a for artifacts in found.values() for a in artifacts]
    return (
        f"{len(chosen)} rounds of run {run.name}, {len(whole)} artifacts, "
        f"{size(sum(a.bytes for a in whole))}"
    )


def _chosen(run: RunFolder, text: str | None) -> dict[int, RoundPointers]:
    """Return the pointers of the rounds that are asked for, all of them scored."""
    scored = {n: p for n, p in run.rounds() if p.rollouts and p.teacher and p.tokens}
    if not scored:
        raise ConfigError(f"run {run.name} has no scored round yet; `tip run` plays them")
    if text is None:
        return scored
    asked = [number for part in text.split(",") for number in _range(part, text)]
    if missing := [number for number in asked if number not in scored]:
        raise ConfigError(
            f"--rounds {text}: round {missing[0]} of run {run.name} is not scored; scored are "
            f"{', '.join(map(str, scored))}"
        )
    return {number: scored[number] for number in sorted(set(asked))}


def _range(part: str, text: str) -> range:
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise ConfigError(f"--rounds {text}: expected numbers of rounds, such as 0-3 or 0,2")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def _artifacts(store: Store, kind: str, rounds: dict[int, RoundPointers]) -> list[Artifact]:
    keys = dict.fromkeys(key for pointers in rounds.values() for key in pointers.of(kind))
    found = {key: store.find(kind, key) for key in keys}
    if gone := [key for key, artifact in found.items() if artifact is None]:
        raise StoreError(
            f"{store}: {kind} {gone[0]} is not there any more; `tip run` with the run's config "
            "makes it again"
        )
    return [artifact for artifact in found.values() if artifact is not None]
