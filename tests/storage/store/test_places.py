"""A folder as a place: create-only, all or nothing, durable before it is visible."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tip.storage.columns import TOKENS, schema
from tip.storage.errors import StoreError
from tip.storage.store import places
from tip.storage.store.places import LocalPlace, check_name, located
from tip.storage.store.store import Draft, Store


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "store")


def test_the_second_of_two_writers_is_refused(place: LocalPlace) -> None:
    assert place.create("a/b/name", b"first")
    assert not place.create("a/b/name", b"second")
    assert place.read("a/b/name") == b"first"
    assert list(place.drafts.iterdir()) == []


def test_exactly_one_of_many_writers_succeeds(place: LocalPlace) -> None:
    for round_ in range(20):
        barrier, won = threading.Barrier(8), []

        def work(
            data: bytes, name: str = f"x/{round_}", barrier: Any = barrier, won: Any = won
        ) -> None:
            barrier.wait()
            if place.create(name, data):
                won.append(data)

        threads = [threading.Thread(target=work, args=(bytes([n]) * 9999,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [place.read(f"x/{round_}")]


def test_a_link_that_succeeded_and_reports_a_failure_counts(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def repeated(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(places.os, "link", repeated)
    assert place.create("name", b"mine")


def test_bytes_are_durable_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    steps: list[tuple[str, str]] = []
    fsync, rename, link = os.fsync, os.rename, os.link

    def synced(handle: int) -> None:
        steps.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        steps.append(("rename", target.name))
        rename(source, target)

    def linked(source: Path, target: Path) -> None:
        steps.extend([("wrote", source.name), ("link", target.name)])
        link(source, target)

    def make(draft: Draft) -> dict[str, Any]:
        draft.file("model.bin").write_bytes(b"weights")
        steps.clear()
        return {}

    monkeypatch.setattr(places.os, "fsync", synced)
    monkeypatch.setattr(places.os, "rename", renamed)
    monkeypatch.setattr(places.os, "link", linked)
    made, _ = store.ensure("checkpoint", {}, make)
    manifest = next(name for what, name in steps if what == "wrote")
    assert steps == [
        ("fsync", "model.bin"),
        ("fsync", made.draft),
        ("rename", made.draft),
        ("fsync", made.key),
        ("fsync", manifest),
        ("wrote", manifest),
        ("link", "manifest.json"),
        ("fsync", made.key),
    ]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let the kernel refuse to write files beyond a size, as a quota does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def zeros(rows: int) -> pa.Table:
    row = {c.name: False if pa.types.is_boolean(c.type) else 0 for c in TOKENS}
    return pa.Table.from_pylist([row | {"rollout": i * i} for i in range(rows)], schema(TOKENS))


def writes_a_table(draft: Draft) -> dict[str, Any]:
    draft.table("tokens", zeros(20_000), TOKENS)
    return {}


def writes_a_file(draft: Draft) -> dict[str, Any]:
    draft.file("model.bin").write_bytes(bytes(1 << 20))
    return {}


@pytest.mark.parametrize("make", [writes_a_table, writes_a_file])
def test_a_full_disk_is_reported_in_one_line_and_nothing_remains(make: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        file_size_limit(20_000),
        pytest.raises(StoreError, match=r"cannot write .*free some space") as caught,
    ):
        store.ensure("tokens", {}, make)
    assert "\n" not in str(caught.value)
    assert list(store.place.entries("")) == []
    assert list(store.place.drafts.iterdir()) == []
    assert store.ensure("tokens", {}, make)[1]


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "give this user permission"),
        (errno.EROFS, "give this user permission"),
        (errno.EPERM, "hard links"),
        (errno.EIO, "check the path"),
    ],
)
def test_an_error_names_the_path_and_the_way_out(
    number: int, way_out: str, place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*names: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(places.os, "link", fail)
    with pytest.raises(StoreError, match=way_out) as caught:
        place.create("some/name", b"")
    assert f"cannot write {place}/some/name: {os.strerror(number)}; " in str(caught.value)
    assert list(place.drafts.iterdir()) == []


def test_an_error_of_the_maker_that_is_not_about_space_passes_as_it_is(tmp_path: Path) -> None:
    def make(draft: Draft) -> dict[str, Any]:
        raise FileNotFoundError("weights")

    with pytest.raises(FileNotFoundError, match="weights"):
        Store(tmp_path).ensure("tokens", {}, make)


def test_entries_pass_over_hidden_folders_and_names_that_vanish(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/one", "a/.hidden/two", ".drafts/three", "b/.four"):
        place.create(name, b"")
    (place.root / "a" / "gone").symlink_to("nowhere")
    assert [entry.name for entry in place.entries("")] == ["a/one", "b/.four"]
    assert list(place.entries("nothing/here")) == []


def test_a_folder_that_cannot_be_listed_is_reported(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(places.os, "scandir", fail)
    with pytest.raises(StoreError, match=r"cannot list .*Permission denied"):
        list(place.entries(""))


@pytest.mark.parametrize("name", ["a", "a/b", ".metadata", "__0_0.distcp", "x.y-z=1+2", "..a"])
def test_plain_relative_names_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_names_outside_of_the_layout_belong_to_nobody() -> None:
    key = "0123456789abcdef" * 2
    assert located(f"tokens/01/{key}/manifest.json") == ("tokens", key, "manifest.json")
    for name in (f"tokens/02/{key}/x", f"tokens/01/{key[1:]}/x", "tokens", "", f"/01/{key}/x"):
        assert located(name) is None


def test_what_is_swept_from_a_writer_that_slept_is_written_again(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, slept = os.link, []

    def swept(source: Path, target: Path) -> None:
        if not slept:
            slept.append(source)
            source.unlink()
        link(source, target)

    monkeypatch.setattr(places.os, "link", swept)
    assert place.create("name", b"mine")
    assert place.read("name") == b"mine"
    assert list(place.drafts.iterdir()) == []
