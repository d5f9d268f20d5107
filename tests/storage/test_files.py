"""A file appears whole or not at all."""

import os
from pathlib import Path

import pytest
from tip.storage.errors import ConfigError
from tip.storage.files import (
    is_finished,
    nearest,
    new_folder,
    replacing,
    share,
    unwritable,
    user_path,
)


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with replacing(path) as beside:
            beside.write_text(text)
            assert not path.exists() if text == "one" else path.read_text() == "one"
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with new_folder(path) as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "a").write_text("a")
        assert not path.exists()
    assert (path / "inner" / "a").read_text() == "a"

    def fail(into: Path) -> None:
        with new_folder(into) as beside:
            (beside / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "new" / "other")
    assert [p.name for p in path.parent.iterdir()] == ["folder"]


def test_a_new_folder_takes_an_empty_ones_place_and_no_others(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "mine").write_text("x")

    def write(name: str) -> None:
        with new_folder(tmp_path / name) as beside:
            (beside / "a").write_text("a")

    write("empty")
    with pytest.raises(OSError, match="not empty"):
        write("full")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "empty",
        "empty/a",
        "full",
        "full/mine",
    ]


def test_a_shared_folder_has_links_and_what_is_there_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "a").write_text("a")
    share(source, target)
    share(source, target)
    assert (target / "inner" / "a").stat().st_ino == (source / "inner" / "a").stat().st_ino


def test_where_there_are_no_links_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("tip.storage.files.os.link", no_link)
    (tmp_path / "a").write_text("a")
    share(tmp_path / "a", tmp_path / "b" / "a")
    assert (tmp_path / "b" / "a").read_text() == "a"


def test_a_copy_that_breaks_off_leaves_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("no links here")

    def half(_: Path, to: Path) -> None:
        to.write_text("ha")
        raise OSError("disk full")

    monkeypatch.setattr("tip.storage.files.os.link", no_link)
    monkeypatch.setattr("tip.storage.files.shutil.copyfile", half)
    (tmp_path / "a").write_text("half or whole")
    with pytest.raises(OSError, match="disk full"):
        share(tmp_path / "a", tmp_path / "b" / "a")
    assert list((tmp_path / "b").iterdir()) == []


def test_what_is_being_written_is_neither_finished_nor_shared(tmp_path: Path) -> None:
    source = tmp_path / "s"
    assert not is_finished(source)
    with replacing(source / "a") as beside:
        beside.write_text("a")
        assert not is_finished(source)
        share(source, tmp_path / "t")
        assert not (tmp_path / "t").exists()
    assert is_finished(source)
    assert is_finished(source / "a")


def test_what_can_be_no_path_is_refused() -> None:
    assert user_path("~/a") == Path.home() / "a"
    for text in ("~nobody_of_this_name/a", "x" * 300):
        with pytest.raises(ConfigError, match="no usable path"):
            user_path(text)


def test_a_folder_that_is_not_there_is_judged_by_the_first_above_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert unwritable(tmp_path / "a" / "b") is None
    assert unwritable(file / "b") == f"{file} is a file"
    assert not (tmp_path / "a").exists()


def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert unwritable(tmp_path / "a") == f"{tmp_path} cannot be written"
