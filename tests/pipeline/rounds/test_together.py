"""Processes that train together: a killed one is named, and what it left another start ends."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tip.pipeline.checks import check_inputs
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, look_at, open_session
from tip.stages.train.state import FILE
from tip.storage.errors import ConfigError, TipError
from tip.storage.facts import CheckpointFacts

from ..conftest import MakeConfig


class Murderous(Reporter):
    """Kills a rank after some steps of the training."""

    def __init__(self, rank: int, after: int) -> None:
        super().__init__(quiet=True)
        self.rank, self.left = f"rank{rank}", after

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        def tick(count: int) -> None:
            if "train" in title:
                self.left -= count
            if self.left < 0:
                for child in multiprocessing.active_children():
                    if child.name == self.rank and child.pid is not None:
                        os.kill(child.pid, signal.SIGKILL)

        yield tick


def trained(session: Session) -> tuple[str, CheckpointFacts]:
    """Return key and facts of the checkpoint of round 0."""
    pointers = session.run.round(0)
    assert pointers is not None
    assert pointers.checkpoint is not None
    made = session.store.find("checkpoint", pointers.checkpoint)
    assert made is not None
    return made.key, CheckpointFacts.of(made)


def test_a_killed_rank_is_named_and_the_same_command_ends_what_one_process_would(
    config: MakeConfig, tmp_path: Path
) -> None:
    changes = {"rollouts_per_step": 8, "processes": 2, "snapshot_seconds": 0}
    settings = config(rounds=1, train=changes)
    session = open_session(settings, Murderous(1, after=2))
    log = session.run.path / "logs" / "rank1.log"
    with pytest.raises(TipError, match=rf"^rank 1 of 2 \(log: {log}\).* killed by SIGKILL") as told:
        play(session)
    assert "\n" not in str(told.value)
    assert log.is_file()
    assert not [c for c in multiprocessing.active_children() if c.name.startswith("rank")]
    assert list((session.run.path / "work").iterdir())
    play(open_session(settings))
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    alone = open_session(config(rounds=1, train=changes | {"processes": 1}, **elsewhere))
    play(alone)
    (key, found), (own, expected) = trained(session), trained(alone)
    assert key == own
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert found.body_tokens == expected.body_tokens
    assert found.staleness == pytest.approx(expected.staleness, rel=1e-2)


def test_more_processes_than_a_step_has_rollouts_are_refused(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"train\.processes = 17: a step of .* = 16 rollouts"):
        config(train={"processes": 17})


def test_more_processes_than_gpus_are_refused(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = look_at(config(train={"processes": 3})).inputs
    monkeypatch.setattr("tip.pipeline.checks.resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(
        ConfigError, match=r"3 processes that train on this host .* need as many GPUs, and 2"
    ):
        check_inputs(inputs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adamw8bit"}, "adamw8bit' keeps its moments whole"),
        ({"lora": {"bits": 4}}, "bits = 4 trains in one process"),
        ({"lora": {"dropout": 0.1}}, r"dropout = 0\.1 drops other inputs in each process"),
    ],
)
def test_what_processes_cannot_share_is_refused(
    config: MakeConfig, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config(train={"processes": 2, **changes})


def test_adapters_of_several_processes_are_those_of_one(config: MakeConfig, tmp_path: Path) -> None:
    changes = {"rollouts_per_step": 8, "lora": {"rank": 4}, "lr": 1e-3}
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    together = open_session(config(rounds=1, train=changes | {"processes": 2}))
    alone = open_session(config(rounds=1, train=changes, **elsewhere))
    for session in (together, alone):
        play(session)
    (key, found), (own, expected) = trained(together), trained(alone)
    assert key == own
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    masters = [tensors_of(session, key) for session in (together, alone)]
    assert masters[0].keys() == masters[1].keys()
    assert {name.split(".")[-2] for name in masters[0]} == {"default"}
    moved = sum(float(v.square().sum()) for n, v in masters[1].items() if "lora_B" in n) ** 0.5
    apart = sum(float((masters[0][n] - v).square().sum()) for n, v in masters[1].items()) ** 0.5
    assert moved > 0
    assert apart < 1e-3 * moved


def tensors_of(session: Session, key: str) -> dict[str, torch.Tensor]:
    """Return the masters in the state of a checkpoint."""
    found = load_file(session.run.state_path(key) / FILE)
    return {name: value for name, value in found.items() if name.startswith("master.")}
