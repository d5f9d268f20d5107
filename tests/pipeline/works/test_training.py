"""A training: what a kill leaves of it, the type of its key, and from which state it starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tip.pipeline.session import Session
from tip.pipeline.works.training import RestoreWork
from tip.stages.train import train as train_module
from tip.storage.errors import ModelError, StoreError

from ..conftest import MakeConfig, contents, copied, played
from ..killing import Killed, killed
from .conftest import training


def test_a_run_killed_between_the_last_step_and_the_commit_trains_no_step_again(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    settings, steps = config(train={"snapshot_seconds": 0}), []
    with monkeypatch.context() as patch:
        patch.setattr("tip.pipeline.works.training.export", killed)
        with pytest.raises(Killed):
            played(settings)
    real = train_module._step

    def step(*arguments: Any) -> None:
        steps.append(arguments)
        real(*arguments)

    monkeypatch.setattr(train_module, "_step", step)
    session = played(settings)
    assert contents(session) == whole
    assert len(steps) == 4  # round 1's
    assert not list((session.run.path / "work").iterdir())


def test_a_training_computes_in_the_type_that_its_key_names(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An origin may be trained again on another device, where `auto` would be another type."""
    module, given = "tip.pipeline.works.training", []
    session = copied(ran, config(rounds=1))
    work = training(session)

    def train(*_: Any, autocast: torch.dtype, **__: Any) -> None:
        given.append(autocast)
        raise Killed

    monkeypatch.setattr(f"{module}.train", train)
    for name in ("float32", "bfloat16"):
        other = replace(work, autocast=name, seed=1)
        assert f"torch.{name}" in other.inputs().values()
        with pytest.raises(Killed):
            session.executor.map([other], "train")
    assert given == [torch.float32, torch.bfloat16]


def test_a_student_that_its_export_could_not_hold_takes_no_step(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = copied(ran, config(rounds=1, train={"export_dtype": "float16"}))
    work = training(session)
    model = session.executor.holder.trainee(work.student)
    with torch.no_grad():
        next(model.model.parameters())[0, 0] = 1e5
    monkeypatch.setattr(session.executor.holder, "trainee", lambda _, **__: model)
    monkeypatch.setattr("tip.pipeline.works.training.train", killed)
    with pytest.raises(ModelError, match=r"holds 1e\+05, and float16 at most"):
        session.executor.map([work], "train")


def test_a_state_of_another_training_is_not_started_from(config: MakeConfig) -> None:
    settings = {"train": {"horizon": 12, "keep_states": 2}}
    states = played(config(rounds=2, **settings)).run.path / "states"
    one, two = (folder / "state.safetensors" for folder in sorted(states.iterdir()))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    with pytest.raises(StoreError, match=r"the training state of .*, not of .*; delete it"):
        played(config(rounds=3, **settings))


def test_a_state_that_is_there_is_not_made_again(ran: Session, tmp_path: Path) -> None:
    work = training(ran)
    assert RestoreWork(work).found(ran.store) == ()
    assert RestoreWork(replace(work, state=tmp_path / "none")).found(ran.store) is None
