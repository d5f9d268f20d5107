"""What is damaged is named, with all that was made from it."""

import os
import shutil
from pathlib import Path

import pytest
from tip.pipeline.session import Session
from tip.pipeline.show import verify
from tip.pipeline.show.verify import verify_store
from tip.storage.errors import StoreError

from ..conftest import MakeConfig, copied, played

KINDS = ("rollouts", "teacher", "tokens", "selection", "checkpoint")


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared(rounds=2, train={"keep_states": 2}))


def flip(path: Path) -> None:
    """Change one bit, as a disk may; size and time stay."""
    about = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_checkpoint_is_named_with_all_that_came_of_it(
    ran: Session, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    session = copied(ran, config())
    store, runs = session.config.store, session.config.runs
    verify_store(store, runs)
    assert "2 training states, all whole" in capsys.readouterr().out
    pointers = [pointers for _, pointers in session.run.rounds()]
    checkpoint = session.store.find("checkpoint", str(pointers[0].checkpoint))
    assert checkpoint is not None
    flip(session.store.folder(checkpoint) / "model.safetensors")
    (state,) = session.run.state_path(str(pointers[1].checkpoint)).iterdir()
    flip(state)
    later = {key for kind in KINDS for key in pointers[1].of(kind)}
    said = f"2 damaged and {len(later)} made from what is, listed above; remove their folders"
    with pytest.raises(StoreError, match=said):
        verify_store(store, runs)
    told = capsys.readouterr().out
    assert "checkpoint part 'model.safetensors'" in told
    assert f"{state.parent}: not the training state that was written here" in told
    named = {line.split()[-1] for line in told.splitlines() if line.startswith("made from")}
    assert named == later


def test_a_damaged_checkpoint_is_not_rolled_out_from(ran: Session, config: MakeConfig) -> None:
    session = copied(ran, config())
    (_, first), (_, second) = session.run.rounds()
    checkpoint = session.store.find("checkpoint", str(first.checkpoint))
    assert checkpoint is not None
    flip(session.store.folder(checkpoint) / "model.safetensors")
    for key in second.of("rollouts"):
        session.store.remove("rollouts", key)
    with pytest.raises(StoreError, match=r"model\.safetensors is damaged"):
        played(session.config)
    assert not any(session.store.find("rollouts", key) for key in second.of("rollouts"))


def test_a_state_that_its_run_drops_meanwhile_is_not_damaged(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, check = copied(ran, config()), verify.check_state

    def late(state: Path) -> None:
        shutil.rmtree(state)
        check(state)

    monkeypatch.setattr(verify, "check_state", late)
    verify_store(session.config.store, session.config.runs)
    assert session.run.kept_states() == []


@pytest.mark.parametrize("kind", ["tokens", "selection", "teacher", "rollouts"])
def test_a_damaged_table_is_named_before_anything_is_made_from_it(
    ran: Session, config: MakeConfig, kind: str
) -> None:
    session = copied(ran, config())
    (_, pointers), _ = session.run.rounds()
    artifact = session.store.find(kind, pointers.of(kind)[0])
    assert artifact is not None
    flip(session.store.path(artifact, kind))
    session.store.remove("checkpoint", str(pointers.checkpoint))
    if kind in ("tokens", "rollouts"):
        session.store.remove("selection", str(pointers.selection))
    with pytest.raises(StoreError, match=rf"{kind}\.parquet is damaged"):
        played(session.config)


def test_what_lies_in_a_run_folder_is_read_too(
    ran: Session, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    session = copied(ran, config())
    run = session.run
    keys = [str(pointers.checkpoint) for _, pointers in run.rounds()]
    rounds, text = run.path / "rounds", run.metrics_path.read_text()
    (rounds / "0001.json").write_bytes((rounds / "0000.json").read_bytes())
    run.metrics_path.write_text(text.replace('"round": 0', '"round": 1', 1))
    run.config_path.unlink()
    (state,) = run.state_path(keys[1]).iterdir()
    state.write_bytes(next(run.state_path(keys[0]).iterdir()).read_bytes())
    with pytest.raises(StoreError, match="4 damaged"):
        verify_store(session.config.store, session.config.runs)
    told = capsys.readouterr().out
    for words in (
        "config.json is gone",
        "0001.json: unreadable (its seal",
        "metrics.jsonl, line 1: damaged (its seal",
        f"{state.parent}: the training state of {keys[0]}",
    ):
        assert words in told
