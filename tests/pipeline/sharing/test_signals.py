"""Signals go from store to store by a folder, whole or not at all, and are found there."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from tip import cli
from tip.pipeline.session import Session
from tip.pipeline.sharing.layout import INDEX, KINDS
from tip.pipeline.sharing.push import Push, push_signals
from tip.pipeline.sharing.signals import export_signals
from tip.pipeline.sharing.taking import import_signals
from tip.storage.columns import TOKENS
from tip.storage.errors import ConfigError, StoreError, TipError
from tip.storage.keys import key_of
from tip.storage.store.store import Store

from ..conftest import MakeConfig, artifacts, contents, numbers, played
from .standin import StandIn

SMALL = {"rollout": {"prompts": 32}}


@pytest.fixture(scope="module")
def run(shared: MakeConfig) -> Session:
    return played(shared(teacher={"vllm": {"memory": 0.5}}, **SMALL))


@pytest.fixture(scope="module")
def folder(run: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("shared") / "signals"
    export_signals("run", str(target), run.config.runs, None)
    return target


def test_in_another_store_a_run_of_the_same_config_scores_nothing(
    run: Session, folder: Path, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    other = config(**SMALL)
    import_signals(str(folder), other.store)
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        f"2 rounds of run run are in {other.store}: 2 rollouts (2 new), 2 teacher (2 new), "
        "2 tokens (2 new)"
    )
    session = played(other)
    assert numbers(session, "score", "teacher_tokens_scored") == [0, 0]
    assert numbers(session, "rollout", "generated_tokens") == [0, 0]
    assert contents(session) == contents(run)
    assert all(not session.store.verify(a) for kind in KINDS for a in artifacts(session, kind))


def test_what_is_there_is_not_taken_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    import_signals(str(folder), str(store))
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}
    capsys.readouterr()
    import_signals(str(folder), str(store))
    assert "2 rollouts (0 new), 2 teacher (0 new), 2 tokens (0 new)" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()} == before


def test_the_card_points_at_tables_that_others_read(run: Session, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert [each["config_name"] for each in front["configs"]] == list(KINDS)
    (files,) = next(e for e in front["configs"] if e["config_name"] == "tokens")["data_files"]
    frame = pl.read_parquet(folder / files["path"])
    assert frame.columns == [column.name for column in TOKENS]
    assert frame.height == sum(numbers(run, "score", "tokens"))
    assert run.inputs.teacher_card.fingerprint in card
    assert "| licence | unknown |" in card
    assert front["tip_run"] == run.run.id
    assert str(run.config.store) not in (folder / INDEX).read_text()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def first(folder: Path, kind: str, room: str) -> Path:
    return sorted((folder / room / kind).iterdir())[0]


def edited(path: Path, change: Callable[[dict], None], *, sealed: bool) -> None:
    values = json.loads(path.read_text())
    change(values)
    if sealed:
        values.pop("seal")
        values["seal"] = key_of(values)
    path.write_text(json.dumps(values))


def other_rows(folder: Path) -> None:
    """Put a forged table where its manifest, sealed again, names its bytes but not its rows."""
    from hashlib import sha256

    from tip.storage.store.artifacts import file_hash, manifest, read_manifest

    path = first(folder, "tokens", "manifests")
    artifact = read_manifest(path.read_bytes(), "tokens", path.stem)
    data = first(folder, "tokens", "data")
    pl.read_parquet(data).with_columns(reverse_kl=pl.lit(0.0, pl.Float32)).write_parquet(data)
    part = artifact.parts["tokens"]
    object.__setattr__(part, "bytes", data.stat().st_size)
    object.__setattr__(part, "digest", file_hash(data))
    path.write_bytes(manifest(artifact))
    digest = sha256(path.read_bytes()).hexdigest()
    edited(
        folder / INDEX,
        lambda v: v["manifests"]["tokens"].update({path.stem: digest}),
        sealed=True,
    )


def without_a_source(folder: Path) -> None:
    key = first(folder, "teacher", "manifests").stem

    def drop(values: dict) -> None:
        del values["manifests"]["teacher"][key]
        for kinds in values["rounds"].values():
            kinds["teacher"] = [k for k in kinds["teacher"] if k != key]

    edited(folder / INDEX, drop, sealed=True)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit of a table": (lambda f: flip(first(f, "teacher", "data")), "its bytes are not what"),
    "a table": (lambda f: first(f, "tokens", "data").unlink(), "data/tokens.*missing"),
    "half of a table": (lambda f: first(f, "tokens", "data").write_bytes(b"PAR1"), "has 4 bytes"),
    "a bit of a manifest": (lambda f: flip(first(f, "rollouts", "manifests")), "manifests/roll"),
    "a manifest": (lambda f: first(f, "rollouts", "manifests").unlink(), "json: missing"),
    "the index": (lambda f: (f / INDEX).unlink(), "no signals.json; expected a folder"),
    "a name in the index": (
        lambda f: edited(f / INDEX, lambda v: v.update(run="other"), sealed=False),
        "its seal does not fit",
    ),
    "a later format": (
        lambda f: edited(f / INDEX, lambda v: v.update(format=2), sealed=True),
        "format: Input should be less than or equal to 1",
    ),
    "a place outside": (
        lambda f: edited(
            f / INDEX, lambda v: v["manifests"]["tokens"].update({"../x": "0" * 64}), sealed=True
        ),
        "String should match pattern",
    ),
    "rows": (other_rows, "its rows are not those"),
    "what another was made from": (without_a_source, "the teacher that it was made from is not"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_of_a_folder_that_is_not_whole_nothing_is_taken(
    folder: Path, tmp_path: Path, what: str
) -> None:
    spoil, said = DAMAGE[what]
    spoilt = shutil.copytree(folder, tmp_path / "spoilt")
    spoil(spoilt)
    with pytest.raises(StoreError, match=said) as it:
        import_signals(str(spoilt), str(tmp_path / "store"))
    assert "\n" not in str(it.value)
    assert not (tmp_path / "store").exists()


def test_rounds_are_chosen(run: Session, tmp_path: Path) -> None:
    export_signals("run", str(tmp_path / "x"), run.config.runs, "1")
    import_signals(str(tmp_path / "x"), str(tmp_path / "store"))
    there = {a.key for a in Store(tmp_path / "store", write=False).list("rollouts")}
    assert there == {artifacts(run, "rollouts")[1].key}


@pytest.mark.parametrize(
    ("name", "rounds", "said"),
    [
        ("nobody", None, "no run nobody"),
        ("run", "0-2", r"--rounds 0-2: round 2 of run run is not scored; scored are 0, 1"),
        ("run", "1-0", "expected numbers of rounds, such as 0-3"),
        ("run", "x", "expected numbers of rounds"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    run: Session, tmp_path: Path, name: str, rounds: str | None, said: str
) -> None:
    with pytest.raises(TipError, match=said):
        export_signals(name, str(tmp_path / "x"), run.config.runs, rounds)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        import_signals(str(tmp_path / "x"), str(tmp_path / "store"))


def test_by_the_hub_they_come_to_another_store(
    hub: StandIn, run: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_signals("run", Push("me/signals", run.config.runs), "0-1")
    there = hub.repositories["dataset", "me/signals"]
    for name, data in there.files.items():
        path = tmp_path / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    import_signals(str(tmp_path / "x"), str(tmp_path / "store"))
    assert hub.steps[-1] == "commit"
    assert f"signals of run at {hub.url}/datasets/me/signals: " in capsys.readouterr().out


def test_the_commands_refuse_what_does_not_go_together(
    run: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (
        (["--signals", "--dtype", "float32"], "--signals sends tables, no weights"),
        (["--rounds", "0"], "--rounds 0 chooses signals: add --signals"),
    ):
        monkeypatch.setattr(sys, "argv", ["tip", "push", "run", "me/x", *more])
        with pytest.raises(SystemExit) as it:
            cli.main()
        assert it.value.code == 2
        assert said in capsys.readouterr().err


def test_a_store_of_another_machine_keeps_what_it_has_and_says_so(
    folder: Path, run: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = artifacts(run, "rollouts")[0]
    store = Store(tmp_path / "store")

    def make(draft):
        draft.file("rollouts").write_text("other")
        return artifact.facts

    store.ensure("rollouts", artifact.inputs, make)
    import_signals(str(folder), str(tmp_path / "store"))
    assert "note: 1 were there already with other content" in capsys.readouterr().out


def test_a_folder_inside_of_the_store_is_refused(run: Session) -> None:
    with pytest.raises(ConfigError, match="which tip keeps"):
        export_signals("run", str(Path(run.config.store) / "x"), run.config.runs, None)
