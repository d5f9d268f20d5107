"""A bucket as a place, over the real S3 protocol: create-only writes, a cache that never lies."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import s3fs
from tip.storage.errors import StoreError
from tip.storage.store.objects import RemotePlace, default_cache
from tip.storage.store.store import Draft, Store

INPUTS = {"seed": 1}


@pytest.fixture
def url(s3_server: str) -> str:
    return f"s3://tip-test/{uuid4().hex}"


@pytest.fixture
def place(url: str, tmp_path: Path) -> RemotePlace:
    return RemotePlace(url, tmp_path / "cache")


@pytest.fixture
def fresh_clients() -> Iterator[None]:
    """Keep clients made under other circumstances out of the test, and its own out of others."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def make(draft: Draft) -> dict[str, Any]:
    draft.file("model.bin").write_bytes(b"weights")
    draft.file("config.json").write_text("{}")
    return {}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_server_refuses_the_second_create_only_write(url: str) -> None:
    bucket = fsspec.filesystem("s3")
    bucket.pipe_file(f"{url}/name", b"first", mode="create")
    with pytest.raises(FileExistsError):
        bucket.pipe_file(f"{url}/name", b"second", mode="create")
    assert bucket.cat_file(f"{url}/name") == b"first"


def test_the_second_of_two_writers_is_refused(place: RemotePlace) -> None:
    assert place.create("a/name", b"first")
    assert not place.create("a/name", b"second")
    assert place.read("a/name") == b"first"


def test_a_write_whose_answer_was_lost_counts(
    place: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = place.fs.pipe_file

    def lost(path: str, data: bytes, mode: str) -> None:
        put(path, data, mode=mode)
        raise OSError("connection reset")

    monkeypatch.setattr(place.fs, "pipe_file", lost)
    assert place.create("name", b"mine")
    assert not place.create("name", b"other")


def test_a_write_that_fails_for_a_moment_is_repeated(
    place: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = place.fs.pipe_file, iter([True, True, False])

    def conflict(path: str, data: bytes, mode: str) -> None:
        if next(failures):
            raise OSError("ConditionalRequestConflict")
        put(path, data, mode=mode)

    monkeypatch.setattr(place.fs, "pipe_file", conflict)
    assert place.create("name", b"mine")


def test_a_write_that_keeps_failing_is_reported_in_one_line(
    place: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, data: bytes, mode: str) -> None:
        raise OSError("SlowDown\nplease")

    monkeypatch.setattr(place.fs, "pipe_file", fail)
    with pytest.raises(
        StoreError, match=r"cannot write .*/name: SlowDown; check the cred"
    ) as caught:
        place.create("name", b"mine")
    assert "\n" not in str(caught.value)


def test_a_prefix_that_is_filled_while_it_is_listed_is_not_an_entry(
    place: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {"name": f"{place.root}/a", "type": "directory", "size": 0}
    monkeypatch.setattr(place.fs, "find", lambda path, detail: {path: folder})
    assert list(place.entries("a")) == []


def test_a_part_is_fetched_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = Store(url, cache=tmp_path / "maker").ensure("checkpoint", INPUTS, make)
    store = Store(url, cache=tmp_path / "reader")
    folder = store.folder(made)
    assert files(folder) == {"model.bin", "config.json"}
    assert files(tmp_path / "reader") == {f"{made.content[:2]}/{made.content}/{name}"
                                          for name in ("model.bin", "config.json")}  # fmt: skip
    place = store.place
    assert isinstance(place, RemotePlace)
    monkeypatch.setattr(place.fs, "get_file", None)
    assert store.folder(made) == folder
    assert Store(url, cache=tmp_path / "reader").path(made, "model.bin") == folder / "model.bin"


def test_the_maker_fetches_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(url, cache=tmp_path / "maker")
    made, _ = store.ensure("checkpoint", INPUTS, make)
    place = store.place
    assert isinstance(place, RemotePlace)
    monkeypatch.setattr(place.fs, "get_file", None)
    assert store.path(made, "model.bin").read_bytes() == b"weights"


def test_a_cache_may_be_deleted_under_a_store_at_work(url: str, tmp_path: Path) -> None:
    store = Store(url, cache=tmp_path / "cache")
    made, _ = store.ensure("checkpoint", INPUTS, make)
    shutil.rmtree(tmp_path / "cache")
    assert store.path(made, "model.bin").read_bytes() == b"weights"
    shutil.rmtree(tmp_path / "cache")
    assert store.sweep(0) == []
    assert store.ensure("checkpoint", {"seed": 2}, make)[1]


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to the cache .*/file/cache"):
        Store(url, cache=tmp_path / "file" / "cache")


def test_an_interrupted_download_leaves_nothing_in_the_cache(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = Store(url, cache=tmp_path / "maker").ensure("checkpoint", INPUTS, make)
    store = Store(url, cache=tmp_path / "reader")
    place = store.place
    assert isinstance(place, RemotePlace)

    def interrupted(remote: str, local: str) -> None:
        Path(local).write_bytes(b"weig")
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(place.fs, "get_file", interrupted)
        with pytest.raises(StoreError, match=r"cannot read .*model\.bin: connection reset"):
            store.path(made, "model.bin")
    assert files(tmp_path / "reader") == set()
    assert store.path(made, "model.bin").read_bytes() == b"weights"


def test_a_damaged_object_never_enters_the_cache(url: str, tmp_path: Path) -> None:
    made, _ = Store(url, cache=tmp_path / "maker").ensure("checkpoint", INPUTS, make)
    store = Store(url, cache=tmp_path / "reader")
    name = f"checkpoint/{made.key[:2]}/{made.key}/{made.parts['model.bin'].file}"
    store.place.write(name, b"WEIGHTS")
    with pytest.raises(StoreError, match=r"model\.bin is damaged: its bytes are not"):
        store.path(made, "model.bin")
    assert files(tmp_path / "reader") == set()
    assert len(store.verify(made)) == 1
    assert files(tmp_path / "reader") == set()


def test_a_damaged_copy_in_the_cache_is_fetched_again(url: str, tmp_path: Path) -> None:
    made, _ = Store(url, cache=tmp_path / "maker").ensure("checkpoint", INPUTS, make)
    path = Store(url, cache=tmp_path / "reader").path(made, "model.bin")
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")
    assert Store(url, cache=tmp_path / "reader").path(made, "model.bin").read_bytes() == b"weights"


def test_a_failed_upload_leaves_no_parts(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(url, cache=tmp_path / "cache")
    place = store.place
    assert isinstance(place, RemotePlace)
    put = place.fs.put_file

    def fails_on_the_second(local: str, remote: str) -> None:
        if remote.endswith("model.bin"):
            raise OSError("connection reset")
        put(local, remote)

    monkeypatch.setattr(place.fs, "put_file", fails_on_the_second)
    with pytest.raises(StoreError, match=r"cannot write .*model\.bin: connection reset"):
        store.ensure("checkpoint", INPUTS, make)
    assert list(store.place.entries("")) == []


def test_a_large_part_goes_up_in_pieces_and_comes_back_whole(url: str, tmp_path: Path) -> None:
    def large(draft: Draft) -> dict[str, Any]:
        with draft.file("model.bin").open("wb") as file:
            file.truncate((100 << 20) + 1)
        return {}

    made, _ = Store(url, cache=tmp_path / "maker").ensure("checkpoint", INPUTS, large)
    (name,) = (name for name in fsspec.filesystem("s3").find(url) if name.endswith("model.bin"))
    assert "-" in fsspec.filesystem("s3").info(name)["ETag"]  # S3's mark of an upload in pieces
    path = Store(url, cache=tmp_path / "reader").path(made, "model.bin")
    assert path.stat().st_size == made.parts["model.bin"].bytes == (100 << 20) + 1


def test_a_store_that_ignores_the_condition_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_clients: None
) -> None:
    put = s3fs.S3FileSystem._pipe_file

    async def ignores(self: Any, path: str, data: bytes, mode: str = "", **others: Any) -> Any:
        return await put(self, path, data, **others)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", ignores)
    with pytest.raises(StoreError, match=r"accepts a second create-only write; .*If-None-Match"):
        Store(url, cache=tmp_path / "cache")


@pytest.mark.parametrize("url", ["memory://tip", "sftp://host/tip", "nonsense://x"])
def test_a_store_without_atomic_creation_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no create-only write that is atomic; expected a folder"):
        Store(url, cache=tmp_path)


def test_a_missing_bucket_is_reported_in_one_line(s3_server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write s3://no-such-bucket/") as caught:
        Store("s3://no-such-bucket/tip", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_reported_in_one_line(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_clients: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"cannot write s3://tip-test/x/.*127.0.0.1:1") as caught:
        Store("s3://tip-test/x", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_client_is_reported_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(url: str, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(StoreError, match="cannot use s3://x/y as a store: Install s3fs"):
        Store("s3://x/y", cache=tmp_path)


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIP_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("TIP_CACHE")
    monkeypatch.setenv("HOME", "/somebody")
    assert default_cache() == Path("/somebody/.cache/tip")
