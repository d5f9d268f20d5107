"""A session is a value; one that was made by looking changes nothing of the process or the disk."""

import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from tip.pipeline.executors.finder import LackingError
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.identity import begin
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, look_at, open_session
from tip.stages.models.cpu import heap
from tip.storage.store.store import Artifact, Store
from transformers import AttentionInterface

from .conftest import Listening, MakeConfig


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a folder."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}


def process() -> tuple[object, ...]:
    """Return what a process has of threads, precision, attention and environment."""
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        sorted(AttentionInterface().valid_keys()),
        dict(os.environ),
    )


def test_a_session_is_frozen(config: MakeConfig) -> None:
    with pytest.raises(FrozenInstanceError):
        open_session(config()).config = config()  # type: ignore[misc]


def test_looking_changes_nothing_of_the_process(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("the allocator was told something")

    monkeypatch.setattr(heap, "keep_freed_memory", refuse)
    before = process()
    session = look_at(config(threads=torch.get_num_threads() + 1))
    plan_of(session)
    with pytest.raises(LackingError):
        play(session)
    assert process() == before


def test_looking_at_nothing_makes_nothing(config: MakeConfig, tmp_path: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(LackingError):
        play(look_at(config()))
    assert listing(tmp_path) == before


def test_looking_at_a_finished_run_plays_it_through_and_writes_nothing(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    play(open_session(config(rounds=1)))
    before = listing(tmp_path)
    session = look_at(config(rounds=1))
    play(session)
    assert listing(tmp_path) == before
    stages = [line["stage"] for line in session.run.metrics()]
    assert stages == 2 * ["rollout", "score", "select", "train"]  # those of before, those of now


def test_looking_asks_for_no_files_of_a_checkpoint(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a store in a bucket would be downloaded."""
    play(open_session(config()))

    def refuse(_: Store, artifact: Artifact) -> Path:
        raise AssertionError(f"the files of {artifact.kind} {artifact.key} were asked for")

    monkeypatch.setattr(Store, "folder", refuse)
    session = look_at(config())
    play(session)
    assert plan_of(session).rounds[1].cached_rollouts


@pytest.mark.parametrize("make", [open_session, look_at])
def test_an_engine_left_to_the_machine_has_a_name_in_the_session_and_is_told(
    config: MakeConfig, asked: dict[str, object], make: Callable[..., Session]
) -> None:
    listening = Listening()
    auto = {"engine": "auto"}
    session = make(config(rollout=auto, evaluate=asked | auto), listening)
    assert session.config.rollout.engine == "transformers"
    assert session.inputs.evaluation.engine == "transformers"
    assert session.inputs.config == session.config
    assert [line for line in listening.said if "auto" in line] == [
        f"note: {name}.engine = 'auto' is 'transformers' in this run"
        for name in ("rollout", "evaluate")
    ]
    named = make(config(evaluate=asked)).config
    assert session.config == named.model_copy(update={"name": session.config.name})


def test_a_run_goes_on_with_the_engine_of_its_record(config: MakeConfig) -> None:
    auto = config(rollout={"engine": "auto"})
    session = open_session(auto)
    begin(session)
    record = session.run.about()
    assert record is not None
    assert record.config["rollout"]["engine"] == "transformers"
    other = record.config | {"rollout": record.config["rollout"] | {"engine": "vllm"}}
    session.run.save(record.model_copy(update={"config": other}))
    assert open_session(auto).config.rollout.engine == "transformers"  # it has no round yet
    session.run.point(0, rollouts=("key",))
    assert open_session(auto).config.rollout.engine == "vllm"
