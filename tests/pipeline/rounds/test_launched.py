"""Processes that torchrun starts, here by two agents as on two hosts, train as one does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tip.pipeline.config.run import RunConfig
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.pipeline.show.plan import _value
from tip.storage.facts import CheckpointFacts
from tip.storage.runs import RunFolder
from tip.storage.store.store import Store

from ..conftest import MakeConfig

PROGRAM = "import sys; from tip.cli import main; sys.exit(main())"
PLACE = {"rollouts_per_step": 8}


def written(config: RunConfig, folder: Path) -> Path:
    """Return a file that holds a config."""
    folder.mkdir(exist_ok=True)
    lines = []
    for key, value in config.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"{key} = {_value(value)}")
    path = folder / "config.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def start(config: Path, size: int = 2) -> list["subprocess.Popen[str]"]:
    """Start one agent of torchrun for each host, with one process each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(size)]
    torchrun += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "tip"]
    torchrun += ["--rdzv-endpoint", f"localhost:{port}", "--no-python"]
    command = [*torchrun, sys.executable, "-c", PROGRAM, "run", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for _ in range(size)
    ]


def ended(agents: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    return [(agent.wait(), out) for agent in agents for out in [agent.communicate()[0]]]


def facts_of(config: RunConfig, number: int) -> CheckpointFacts:
    pointers = RunFolder(config.runs, config.name).round(number)
    assert pointers is not None
    assert pointers.checkpoint is not None
    made = Store(config.store).find("checkpoint", pointers.checkpoint)
    assert made is not None
    return CheckpointFacts.of(made)


def alone(config: MakeConfig, folder: Path, rounds: int) -> Session:
    session = open_session(
        config(rounds=rounds, train=PLACE, store=f"{folder}/s2", runs=f"{folder}/r2")
    )
    play(session)
    return session


def test_two_hosts_train_what_one_process_does(config: MakeConfig, tmp_path: Path) -> None:
    settings = config(rounds=2, train=PLACE)
    for code, out in ended(start(written(settings, tmp_path / "c"))):
        assert code == 0, out
    expected = alone(config, tmp_path, 2).config
    for number in range(2):
        found, own = (facts_of(c, number) for c in (settings, expected))
        assert found.losses == pytest.approx(own.losses, abs=2e-4 if number else 1e-5)
        assert found.body_tokens == own.body_tokens


def test_a_setting_that_torchrun_does_not_fulfil_is_refused(
    config: MakeConfig, tmp_path: Path
) -> None:
    settings = config(rounds=1, train={**PLACE, "processes": 4})
    ends = ended(start(written(settings, tmp_path / "c")))
    said = [line for _, out in ends for line in out.splitlines() if line.startswith("error:")]
    assert [code for code, _ in ends if code] != []
    assert said == ["error: train.processes = 4, but torchrun started 2: set the one as the other"]


@pytest.mark.soak
def test_where_a_host_is_lost_the_same_command_continues(
    config: MakeConfig, tmp_path: Path
) -> None:
    train = {**PLACE, "snapshot_seconds": 0, "epochs": 8}
    settings = config(rounds=1, train=train)
    path = written(settings, tmp_path / "c")
    agents = start(path)
    snapshots = RunFolder(settings.runs, settings.name).path / "work"
    last = time.monotonic() + 120
    while not (snapshots.is_dir() and any(snapshots.iterdir())) and time.monotonic() < last:
        time.sleep(0.05)
    lost = agents[1].pid  # the host with all that runs there
    children = Path(f"/proc/{lost}/task/{lost}/children").read_text(encoding="ascii").split()
    for pid in (lost, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    (code, out), _ = ended(agents)
    assert code != 0, out
    for code, out in ended(start(path)):
        assert code == 0, out
    whole = open_session(
        config(rounds=1, train=train, store=f"{tmp_path}/s2", runs=f"{tmp_path}/r2")
    )
    play(whole)
    found, own = facts_of(settings, 0), facts_of(whole.config, 0)
    assert found.losses == pytest.approx(own.losses, abs=1e-4)
