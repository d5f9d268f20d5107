"""A run started again finds what it has, continues where it was, and others reuse it."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.storage.errors import StoreError

from ..conftest import MakeConfig, contents, copied, numbers, played
from ..killing import Killed, KillingReporter


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared())


def test_a_finished_run_makes_nothing_when_started_again(ran: Session, config: MakeConfig) -> None:
    first = copied(ran, config())
    before = contents(first)
    again = played(config())
    made = numbers(again, "rollout", "generated_tokens")
    scored = numbers(again, "score", "teacher_tokens_scored")
    assert (made[2:], scored[2:]) == ([0, 0], [0, 0])
    assert numbers(again, "train", "fresh") == [True, True, False, False]
    assert contents(again) == before


def test_a_run_that_found_everything_loads_no_weights(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(ran, config())

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("tip.stages.holder.load_model", refuse)
    played(config())


def test_another_rule_costs_no_generation_and_no_teacher_in_round_0(
    ran: Session, shared: MakeConfig
) -> None:
    other = played(shared("other", select={"rule": "random"}))
    assert numbers(other, "rollout", "generated_tokens")[0] == 0
    assert numbers(other, "score", "teacher_tokens_scored")[0] == 0
    assert numbers(other, "rollout", "generated_tokens")[1] > 0


@pytest.mark.parametrize(
    ("stage", "after"), [("rollout", 40 * 64), ("score", 1700), ("train", 2), ("round 1 train", 1)]
)
def test_a_run_killed_in_a_stage_continues_to_the_same_artifacts(
    ran: Session, config: MakeConfig, stage: str, after: int
) -> None:
    settings = config(train={"snapshot_seconds": 0})
    with pytest.raises(Killed):
        play(open_session(settings, KillingReporter(stage, after)))
    assert contents(played(settings)) == contents(ran)


def test_a_killed_process_continues_to_the_same_artifacts(ran: Session, config: MakeConfig) -> None:
    settings = config()
    program = (
        "import json, sys\nfrom tip.pipeline.config.toml import make_config\n"
        "from tip.pipeline.rounds.play import play\nfrom tip.pipeline.session import open_session\n"
        "play(open_session(make_config(json.loads(sys.argv[1]), 'test')))"
    )
    child = subprocess.Popen([sys.executable, "-c", program, settings.model_dump_json()])
    deadline = time.monotonic() + 120
    while not list(Path(settings.store).glob("teacher/*/*/manifest.json")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert contents(played(settings)) == contents(ran)


def test_of_two_processes_with_one_name_one_plays_and_the_other_is_told(
    config: MakeConfig, ran: Session
) -> None:
    session = copied(ran, config())
    told = pytest.raises(StoreError, match=r"run run in .* is being played by .*--name")
    with session.run.held(), told:  # as another process holds it: a lock belongs to who opened it
        play(open_session(config(select={"rule": "random"})))
    play(session)


def test_more_rounds_extend_a_run(ran: Session, config: MakeConfig) -> None:
    session = copied(ran, config(rounds=3))
    play(session)
    short, longer = contents(ran), contents(session)
    assert {kind: values[: len(short[kind])] for kind, values in longer.items()} == short
    assert len(longer["checkpoint"]) == 3
