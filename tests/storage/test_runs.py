"""A run folder is typed, reads what older versions wrote, and loses no line but a cut one."""

import json
from pathlib import Path
from typing import Any

import pytest
from tip.storage.errors import ConfigError, StoreError
from tip.storage.runs import Branch, RoundPointers, RunFolder, RunRecord, RunView, run_names


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs", "a")


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_record_comes_back_and_keeps_what_this_version_does_not_know(run: RunFolder) -> None:
    assert (run.about(), run.id, run.branch(), run.first_round) == (None, None, None, 0)
    record = RunRecord(
        id="x", config={"rounds": 3}, horizon_rounds=3, branch=Branch(run="b", rounds=2)
    )
    run.save(record)
    assert run.about() == record
    assert (run.id, run.branch(), run.first_round) == ("x", ("b", 2), 2)
    stored = json.loads(run.config_path.read_text()) | {"of_tomorrow": 1}
    run.config_path.write_text(json.dumps(stored))
    again = run.about()
    assert again is not None
    run.save(again.model_copy(update={"content": {"select.rule": "k"}}))
    assert json.loads(run.config_path.read_text())["of_tomorrow"] == 1
    assert run_names(run.path.parent) == ["a"]


def test_pointers_add_up_and_are_read_by_kind(run: RunFolder) -> None:
    assert run.round(0) is None
    run.point(0, rollouts=["k1", "k2"], student="s")
    run.point(0, selection="k3")
    run.point(2, checkpoint="k4")
    found = run.round(0)
    assert found is not None
    assert (found.of("rollouts"), found.of("selection"), found.of("teacher")) == (
        ("k1", "k2"),
        ("k3",),
        (),
    )
    assert [number for number, _ in run.rounds()] == [0, 2]
    stored = json.loads((run.path / "rounds" / "0000.json").read_text())
    assert stored == {"student": "s", "rollouts": ["k1", "k2"], "selection": "k3"}


def test_pointers_that_change_nothing_are_not_written_again(run: RunFolder) -> None:
    run.point(0, selection="k")
    path = run.path / "rounds" / "0000.json"
    before = path.stat().st_ino
    run.point(0, selection="k")
    assert path.stat().st_ino == before


def test_lines_come_back_in_order_and_each_is_parsed_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, parsed = json.loads, []

    def loads(text: bytes) -> Any:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr("tip.storage.runs.json.loads", loads)
    for number in range(10):
        run.append({"round": number})
        assert [line["round"] for line in run.metrics()] == list(range(number + 1))
    assert len(parsed) == 10


def test_a_line_that_a_kill_has_cut_costs_that_line_alone(run: RunFolder) -> None:
    run.append({"round": 0})
    for torn in ('{"round": 1, "sta', '{"round"', "{", '{"round": 1, "stage": "se'):
        with run.metrics_path.open("a") as file:
            file.write(torn)
        assert len(RunFolder(run.path.parent, "a").metrics()) == len(run.metrics())
        run.append({"round": 2})
    assert [line["round"] for line in run.metrics()] == [0, 2, 2, 2, 2]


@pytest.mark.parametrize("damage", [b'{"round": 1, x}\n', b'\x00\xff{"round": 1}\n'])
def test_any_other_unreadable_line_is_named(run: RunFolder, damage: bytes) -> None:
    run.append({"round": 0})
    place = run.metrics_path.stat().st_size
    with run.metrics_path.open("ab") as file:
        file.write(damage)
    run.append({"round": 2})
    with pytest.raises(StoreError, match=rf"metrics.jsonl: the line at byte {place} is damaged"):
        run.metrics()


def test_a_file_that_was_replaced_or_shortened_is_read_anew(run: RunFolder) -> None:
    for number in range(3):
        run.append({"round": number})
    assert len(run.metrics()) == 3
    run.metrics_path.write_text('{"round": 7}\n')
    assert run.metrics() == [{"round": 7}]
    run.metrics_path.unlink()
    assert run.metrics() == []


def test_a_damaged_record_is_one_line(run: RunFolder) -> None:
    run.save(RunRecord(config={}))
    run.config_path.write_text("{")
    with pytest.raises(StoreError, match="unreadable") as it:
        run.about()
    assert "\n" not in str(it.value)


def test_states_are_kept_by_key_as_folders_and_as_the_files_of_older_versions(
    run: RunFolder,
) -> None:
    for folder in ("states", "work"):
        for key in ("k1", "k2"):
            (run.path / folder / key).mkdir(parents=True)
            (run.path / folder / key / "state.safetensors").write_text("x")
            (run.path / folder / f"old-{key}.safetensors").write_text("x")
    assert run.find_state("k1") == run.state_path("k1")
    assert run.find_state("old-k1") == run.path / "states" / "old-k1.safetensors"
    assert run.find_state("k3") is None
    run.keep_states(["k1", "old-k2"])
    left = sorted(p.name for p in (run.path / "states").iterdir())
    assert left == ["k1", "old-k2.safetensors"]
    assert sorted(p.name for p in (run.path / "work").iterdir()) == left


def test_a_state_is_shared_whole_and_outlives_its_origin(run: RunFolder, tmp_path: Path) -> None:
    source = tmp_path / "other" / "states" / "k"
    source.mkdir(parents=True)
    (source / "state.safetensors").write_text("x")
    for _ in range(2):
        run.share_state(source)
    (source / "state.safetensors").unlink()
    assert (run.state_path("k") / "state.safetensors").read_text() == "x"


def test_a_view_reads_the_folder_and_writes_nowhere(run: RunFolder) -> None:
    run.save(RunRecord(id="x", config={}))
    run.point(0, selection="k")
    run.append({"round": 0})
    before = listing(run.path)
    view = RunView(run.path.parent, "a")
    view.save(RunRecord(id="y", config={}))
    view.point(0, checkpoint="c")
    view.point(1, selection="k2")
    view.append({"round": 1})
    view.keep_states([])
    assert view.id == "y"
    assert view.round(0) == RoundPointers(selection="k", checkpoint="c")
    assert [number for number, _ in view.rounds()] == [0, 1]
    assert view.metrics() == [{"round": 0}, {"round": 1}]
    assert listing(run.path) == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected letters"):
        RunFolder(tmp_path, name)
