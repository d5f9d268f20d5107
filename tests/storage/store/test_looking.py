"""A store that is opened to look at it is read, and nothing of it changes."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tip.storage.errors import StoreError
from tip.storage.store.objects import RemotePlace
from tip.storage.store.places import LocalPlace
from tip.storage.store.store import Draft, Store

from ..conftest import unprivileged

INPUTS = {"of": 1}


def make(draft: Draft) -> dict[str, Any]:
    draft.file("a.txt").write_text("a")
    return {}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every writing call of a place fail, as on a file system that is read-only."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was written")

    for name in ("create", "write", "adopt", "remove", "remove_folder"):
        monkeypatch.setattr(LocalPlace, name, refuse)


def test_what_is_there_is_found_listed_read_and_verified(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made, _ = Store(tmp_path / "s").ensure("probe", INPUTS, make)
    before = listing(tmp_path)
    request.getfixturevalue("unwritable")
    store = Store(tmp_path / "s", write=False)
    assert store.find("probe", made.key) == made
    assert list(store.list()) == [made]
    assert store.path(made, "a.txt").read_text() == "a"
    assert (store.folder(made) / "a.txt").exists()
    assert store.verify(made) == []
    assert store.sizes()["probe"].artifacts == 1
    assert store.begin("probe", INPUTS) == made
    assert store.ensure("probe", INPUTS, make) == (made, False)
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("unwritable")
def test_a_root_that_is_not_there_is_an_empty_store_and_stays_away(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", write=False)
    assert store.find("probe", "0" * 32) is None
    assert list(store.list()) == []
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("unwritable")
def test_making_and_removing_are_refused_in_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", write=False)
    for work in (
        lambda: store.ensure("probe", INPUTS, make),
        lambda: store.begin("probe", INPUTS, wait=False),
        lambda: store.remove("probe", "0" * 32),
        lambda: store.sweep(0),
    ):
        with pytest.raises(StoreError, match="was opened to look at it"):
            work()


def test_a_store_whose_folders_forbid_writing_is_read(request: pytest.FixtureRequest) -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folder is closed to everybody else
    request.addfinalizer(lambda: shutil.rmtree(root))
    made, _ = Store(root / "s").ensure("probe", INPUTS, make)
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        folder.chmod(0o555)
    with unprivileged():
        with pytest.raises(StoreError, match="ermission"):
            Store(root / "s")
        store = Store(root / "s", write=False)
        assert list(store.list()) == [made]
        assert store.path(made, "a.txt").read_text() == "a"
        assert store.verify(made) == []
        with pytest.raises(StoreError, match="was opened to look at it"):
            store.ensure("probe", {"of": 2}, make)
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        folder.chmod(0o755)


def test_a_bucket_is_read_through_a_cache_that_is_made_when_it_is_needed(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, cache = f"s3://tip-test/{uuid4().hex}", tmp_path / "cache"
    made, _ = Store(url, cache=tmp_path / "maker").ensure("probe", INPUTS, make)
    store = Store(url, cache=cache, write=False)
    place = store.place
    assert isinstance(place, RemotePlace)
    for name in ("pipe_file", "put_file", "rm_file"):
        monkeypatch.setattr(place.fs, name, None)
    assert list(store.list()) == [made]
    assert store.sizes()["probe"].artifacts == 1
    assert not cache.exists()
    assert store.path(made, "a.txt").read_text() == "a"
    assert store.path(made, "a.txt").is_relative_to(cache)
    assert store.verify(made) == []
    with pytest.raises(StoreError, match="was opened to look at it"):
        store.ensure("probe", {"of": 2}, make)


def test_damaged_manifests_are_told_beside_what_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.ensure("probe", {"of": 1}, make)
    damaged, _ = store.ensure("probe", {"of": 2}, make)
    path = tmp_path / "s" / "probe" / damaged.key[:2] / damaged.key / "manifest.json"
    path.unlink()
    path.write_text("{")
    words: list[str] = []
    assert store.sizes(words)["probe"].artifacts == 1
    assert [damaged.key in word for word in words] == [True]
    with pytest.raises(StoreError, match="is damaged"):
        store.sizes()
