"""A draft has one owner, and only a dead owner's draft is swept."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from tip.storage.columns import TOKENS
from tip.storage.errors import StoreError
from tip.storage.store import drafts as module
from tip.storage.store.drafts import abandoned, drafted, sweep_drafts

from ..example_tables import example


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def orphan(drafts: Path, name: str = "d" * 32) -> Path:
    """Return a draft whose writer is dead: nobody holds its lock."""
    (drafts / name).mkdir()
    (drafts / name / "part").write_text("half")
    (drafts / f"{name}.lock").write_text("")
    return drafts / name


def test_what_is_not_taken_from_a_draft_is_gone_afterwards(tmp_path: Path) -> None:
    with drafted(tmp_path) as draft:
        draft.file("a/b").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_draft_in_use_is_not_abandoned(tmp_path: Path) -> None:
    with drafted(tmp_path) as draft:
        with abandoned(tmp_path, draft.folder.name) as free:
            assert not free
        assert sweep_drafts(tmp_path, 0) == []
        assert draft.folder.exists()
    with abandoned(tmp_path, draft.folder.name) as free:
        assert free


def test_nobody_else_takes_an_abandoned_draft_meanwhile(tmp_path: Path) -> None:
    name = orphan(tmp_path).name
    with abandoned(tmp_path, name) as free, abandoned(tmp_path, name) as also:
        assert (free, also) == (True, False)


def test_the_draft_of_a_dead_writer_is_swept(tmp_path: Path) -> None:
    folder = orphan(tmp_path)
    assert sweep_drafts(tmp_path, 0) == [folder.name]
    assert list(tmp_path.iterdir()) == []


def test_a_young_draft_is_not_swept(tmp_path: Path) -> None:
    folder = orphan(tmp_path)
    assert sweep_drafts(tmp_path, 100) == []
    for path in (folder, folder.with_suffix(".lock")):
        age(path, 200)
    assert sweep_drafts(tmp_path, 100) == [folder.name]


@pytest.mark.parametrize(("seconds", "swept"), [(30, []), (90, ["x.tmp"])])
def test_small_files_in_flight_have_a_minute(
    seconds: float, swept: list[str], tmp_path: Path
) -> None:
    (tmp_path / "x.tmp").write_text("")
    age(tmp_path / "x.tmp", seconds)
    assert sweep_drafts(tmp_path, 0) == swept


def test_without_locks_a_draft_is_written_and_never_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(handle: int, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    folder = orphan(tmp_path)
    with drafted(tmp_path) as draft:
        draft.file("x").write_text("")
        assert sweep_drafts(tmp_path, 0) == []
    assert folder.exists()


def test_age_is_told_by_the_folders_clock_and_not_by_this_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tmp").write_text("")
    folder, ten_years = orphan(tmp_path), time.time() + 3e8
    monkeypatch.setattr(time, "time", lambda: ten_years)
    assert sweep_drafts(tmp_path, 3600) == []
    assert folder.exists()


def test_what_was_committed_elsewhere_is_the_same_part_here(tmp_path: Path) -> None:
    with drafted(tmp_path / "there") as draft:
        draft.table("tokens", example(TOKENS), TOKENS)
        path, part = draft.folder / "tokens.parquet", draft.parts()["tokens"]
        with drafted(tmp_path / "here") as copy:
            copy.adopt(path, part)
            taken = copy.parts()["tokens"]
            assert (taken.rows, taken.content, taken.digest) == (
                part.rows,
                part.content,
                part.digest,
            )
            assert copy.content() == draft.content()
        data = bytearray(path.read_bytes())
        data[9] ^= 1
        path.write_bytes(data)
        with (
            drafted(tmp_path / "here") as copy,
            pytest.raises(StoreError, match="its bytes are not what was committed"),
        ):
            copy.adopt(path, part)


def test_a_file_that_was_hashed_beside_is_not_read_again_unless_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = list[str](), module.file_hash

    def file_hash(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(module, "file_hash", file_hash)
    with drafted(tmp_path) as draft:
        for name in ("a", "b/c"):
            draft.file(name).write_text(name)
        draft.hash_beside()
        assert {part.digest for part in draft.parts().values()} == {
            hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b/c")
        }
        assert sorted(read) == ["a", "c"]
        draft.file("a").write_text("more")
        draft.file("d").write_text("new")
        parts = draft.parts()
        assert parts["a"].digest == hashlib.sha256(b"more").hexdigest()
        assert parts["d"].digest == hashlib.sha256(b"new").hexdigest()
        assert sorted(read) == ["a", "a", "c", "d"]
