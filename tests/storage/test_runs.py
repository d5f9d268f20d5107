"""A run folder is typed, reads what older versions wrote, and loses no line but a cut one."""

import json
from pathlib import Path

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
    run.save(RunRecord.model_validate(record.dump() | {"of_tomorrow": 1}))
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
    stored.pop("seal")
    assert stored == {"student": "s", "rollouts": ["k1", "k2"], "selection": "k3"}


def test_pointers_that_change_nothing_are_not_written_again(run: RunFolder) -> None:
    run.point(0, selection="k")
    path = run.path / "rounds" / "0000.json"
    before = path.stat().st_ino
    run.point(0, selection="k")
    assert path.stat().st_ino == before


def test_metrics_come_back_in_order_but_for_a_line_that_a_kill_has_cut(run: RunFolder) -> None:
    run.append({"round": 0})
    with run.metrics_path.open("a") as file:
        file.write('{"round": 1, "fresh": tr')
    assert run.metrics() == [{"round": 0}]
    run.append({"round": 2})
    assert (
        run.metrics() == RunFolder(run.path.parent, "a").metrics() == [{"round": 0}, {"round": 2}]
    )


def test_damaged_metrics_are_named_with_their_line(run: RunFolder) -> None:
    run.append({"round": 0})
    with run.metrics_path.open("a") as file:
        file.write("x\n")
    with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2: damaged"):
        run.metrics()


def test_what_cannot_be_written_is_one_line_with_the_setting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "a")
    (tmp_path / "a" / "config.json").mkdir(parents=True)
    for name in ("rounds", "states", "k"):
        (tmp_path / "a" / name).write_text("a file where a folder is needed")
    (tmp_path / "a" / "metrics.jsonl").mkdir()
    for write in (
        lambda: run.append({"round": 0}),
        lambda: run.save(RunRecord(config={})),
        lambda: run.share_state(tmp_path / "a" / "k"),
    ):
        with pytest.raises(StoreError, match=r"cannot be written .*; check `runs`") as caught:
            write()
        assert "\n" not in str(caught.value)


OLDER = {
    "config.json": {
        "id": "0123456789abcdef",
        "horizon_rounds": 4,
        "config": {"rounds": 4, "evaluate": None, "select": {"where": None, "keep": 0.2}},
        "content": {"select.rule": "k"},
        "branch": {"run": "b", "rounds": 1},
    },
    "rounds/0000.json": {
        "student": "s",
        "rollouts": ["k1", "k2"],
        "teacher": ["t"],
        "tokens": ["o"],
        "selection": "c",
        "checkpoint": "d",
    },
}


def test_what_older_versions_wrote_is_read_and_written_again_as_it_was(run: RunFolder) -> None:
    for name, stored in OLDER.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(json.dumps(stored, indent=2))
    about = run.about()
    assert about is not None
    assert about.config == OLDER["config.json"]["config"]
    run.save(about.model_copy(update={"horizon_rounds": 5}))
    run.point(0, checkpoint="e")
    for name, change in (
        ("config.json", {"horizon_rounds": 5}),
        ("rounds/0000.json", {"checkpoint": "e"}),
    ):
        stored = json.loads((run.path / name).read_text())
        stored.pop("seal")
        assert stored == OLDER[name] | change


def test_a_changed_number_and_the_pointers_of_another_round_are_noticed(run: RunFolder) -> None:
    run.save(RunRecord(config={}, horizon_rounds=12))
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("12", "13"))
    with pytest.raises(StoreError, match=r"config\.json: unreadable \(its seal does not fit"):
        run.about()
    run.point(0, selection="k0")
    run.point(1, selection="k1")
    (run.path / "rounds" / "0000.json").replace(run.path / "rounds" / "0001.json")
    with pytest.raises(StoreError, match=r"0001\.json: unreadable \(its seal does not fit"):
        list(run.rounds())


def test_a_run_that_has_lost_its_record_is_still_a_run(run: RunFolder) -> None:
    run.save(RunRecord(config={}))
    run.point(0, selection="k0")
    run.config_path.unlink()
    assert run_names(run.path.parent) == ["a"]
    with pytest.raises(StoreError, match=r"config\.json is gone, but 1 rounds .* are here"):
        run.about()


def test_a_record_of_before_there_were_branches_and_digests_is_read(run: RunFolder) -> None:
    run.path.mkdir(parents=True)
    run.config_path.write_text('{"config": {"rounds": 2}}')
    about = run.about()
    assert about is not None
    assert (run.id, run.branch(), about.content, about.horizon_rounds) == (None, None, None, None)


def test_a_damaged_record_is_one_line(run: RunFolder) -> None:
    run.save(RunRecord(config={}))
    for text, reason in (("{", "EOF"), ('{"config": 3}', "config: ")):
        run.config_path.write_text(text)
        with pytest.raises(StoreError, match=rf"config\.json: unreadable \(.*{reason}") as it:
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


def test_a_folder_is_held_by_one_and_what_a_kill_left_half_written_goes(run: RunFolder) -> None:
    state = run.state_path("k")
    state.mkdir(parents=True)
    for name in ("state.safetensors.17.part", ".tmpAbCdEf", "state.safetensors"):
        (state / name).touch()
    other = RunFolder(run.path.parent, run.name)
    with run.held(), run.held():
        assert [p.name for p in state.iterdir()] == ["state.safetensors"]
        with (
            pytest.raises(StoreError, match=r"is being played by process \d+ on .*--name"),
            other.held(),
        ):
            pass
    with other.held():
        pass


def test_a_state_that_a_kill_has_left_unfinished_is_none(run: RunFolder) -> None:
    folder = run.state_path("k")
    folder.mkdir(parents=True)
    assert run.find_state("k") is None
    (folder / "state.safetensors.7.part").write_text("half")
    assert run.find_state("k") is None
    (folder / "state.safetensors").write_text("whole")
    assert run.find_state("k") == folder


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
