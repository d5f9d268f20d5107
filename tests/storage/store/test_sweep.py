"""A sweep removes what dead writers left, and nothing that might be wanted."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tip.storage.errors import StoreError
from tip.storage.store import places
from tip.storage.store.places import LocalPlace
from tip.storage.store.store import Draft, Store
from tip.storage.store.sweep import sweep

DEAD = "d" * 32


def make(draft: Draft) -> dict[str, Any]:
    draft.file("a.txt").write_text("a")
    return {}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def folder_of(store: Store) -> str:
    made, _ = store.ensure("probe", {"of": 1}, make)
    return f"probe/{made.key[:2]}/{made.key}"


def age(place: LocalPlace, folder: str, seconds: float) -> None:
    then = time.time() - seconds
    for path in (place.root / folder).rglob("*"):
        os.utime(path, (then, then))


def test_claims_and_uncommitted_parts_go_and_what_is_committed_stays(store: Store) -> None:
    folder = folder_of(store)
    (made,) = store.list()
    store.place.create(f"{folder}/claim-3", b"")
    store.place.create(f"{folder}/{DEAD}/part", b"half")
    store.place.create(f"{folder}/notes", b"somebody's own")
    assert store.sweep(0) == [f"{folder}/claim-3", f"{folder}/{DEAD}"]
    left = {entry.name.removeprefix(f"{folder}/") for entry in store.place.entries("")}
    assert left == {"manifest.json", f"{made.draft}/a.txt", "notes"}


def test_a_folder_with_one_young_file_is_left_alone(store: Store) -> None:
    folder, place = folder_of(store), store.place
    assert isinstance(place, LocalPlace)
    place.create(f"{folder}/{DEAD}/part", b"half")
    age(place, folder, 100)
    place.create(f"{folder}/claim-1", b"")
    assert store.sweep(50) == []
    age(place, folder, 100)
    assert len(store.sweep(50)) == 2


def test_beside_a_damaged_manifest_nothing_that_might_be_its_own_goes(store: Store) -> None:
    folder = folder_of(store)
    store.place.remove(f"{folder}/manifest.json")
    store.place.create(f"{folder}/manifest.json", b"{")
    before = [entry.name for entry in store.place.entries("")]
    assert store.sweep(0) == []
    assert [entry.name for entry in store.place.entries("")] == before


def test_a_place_in_which_nothing_was_ever_written_has_nothing_to_remove(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "s", write=False)
    (tmp_path / "s" / ".drafts").mkdir(parents=True)
    assert sweep(place, lambda kind, key: None, 0) == []


def test_probes_of_killed_processes_go_after_a_minute(store: Store) -> None:
    place = store.place
    assert isinstance(place, LocalPlace)
    place.create(f".probes/{DEAD}", b"first")
    assert store.sweep(0) == []
    age(place, ".probes", 100)
    assert store.sweep(0) == [f".probes/{DEAD}"]
    assert list((place.root / ".probes").iterdir()) == []


def test_a_probe_whose_write_fails_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store.place, LocalPlace)
    root, fsync = store.place.root, os.fsync
    folder = root / ".probes"

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}") == str(folder) and any(folder.iterdir()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the name is there by now
        fsync(handle)

    monkeypatch.setattr(places.os, "fsync", full)
    for writes in (lambda: Store(root), lambda: store.sweep(0)):
        with pytest.raises(StoreError, match="free some space"):
            writes()
        assert list(folder.iterdir()) == []
