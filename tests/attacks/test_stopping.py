"""Told to end in any stage, alone or with a comparison's runs: nothing is lost or left over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages import stopping
from tip.stages.select import select as selecting
from tip.stages.stopping import Terminated, obey_sigterm

from ..pipeline import conftest as pipeline
from ..pipeline.conftest import PAIR, MakeConfig, contents, numbers, played

problems, config, shared, one_thread = (
    pipeline.problems,
    pipeline.config,
    pipeline.shared,
    pipeline.one_thread,
)

SECONDS = 300  # a limit of patience with a busy machine
SLOW = (pytest.param(stage, marks=pytest.mark.soak) for stage in ("score", "evaluate"))
TOLD = 128 + signal.SIGTERM


@pytest.fixture
def obeyed() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    obey_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)
    stopping._asked.clear()


@pytest.fixture(scope="module")
def small(problems: Path) -> dict[str, Any]:
    """Return the changes of a run of two rounds of two steps, with evaluations between."""
    asked = {"source": str(problems / "held_out.jsonl"), "template": "raw", "temperature": 0}
    return {
        "rollout": {"prompts": 8, "max_tokens": 16},
        "train": {"rollouts_per_step": 4},
        "evaluate": {**asked, "max_tokens": 8, "limit": 8, "verifier": "exact", "every": 1},
    }


@pytest.fixture(scope="module")
def whole(shared: MakeConfig, small: dict[str, Any]) -> Session:
    return played(shared("whole", **small))


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Telling(Reporter):
    """Tells this process to end in the middle of a stage of the second round."""

    def __init__(self, stage: str) -> None:
        super().__init__(quiet=True)
        self.title = f"round 1 {stage}"

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        def tick(count: int) -> None:
            if title == self.title and count:
                tell()

        yield tick


@pytest.mark.parametrize("stage", ["rollout", "select", "train", *SLOW])
def test_a_run_that_is_told_to_end_continues_to_the_same_bits(
    config: MakeConfig,
    small: dict[str, Any],
    whole: Session,
    obeyed: None,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    settings = config("told", **small)
    rank, calls = selecting._rank, []

    def telling(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:  # a check before the rounds is the first
            tell()
        rank(*arguments)

    if stage == "select":
        monkeypatch.setattr(selecting, "_rank", telling)
    with pytest.raises(Terminated):
        play(open_session(settings, Telling(stage)))
    stopping._asked.clear()
    session = open_session(settings)
    assert len(session.run.kept_states()) == (2 if stage == "train" else 1)
    with session.run.held():
        pass  # it is let go
    assert not list(session.store.place.drafts.iterdir())
    play(session)
    assert contents(session) == contents(whole)
    assert (
        numbers(session, "evaluate", "accuracy")[-1] == numbers(whole, "evaluate", "accuracy")[-1]
    )


CONFIG = """
rounds = {rounds}
threads = 1
store = "store"
runs = "runs"
[student]
model = "{pair}/student"
[teacher]
model = "{pair}/teacher"
[prompts]
source = "{problems}/train.jsonl"
template = "raw"
[rollout]
prompts = 8
max_tokens = 16
[train]
rollouts_per_step = 1
[evaluate]
source = "{problems}/held_out.jsonl"
template = "raw"
temperature = 0
max_tokens = 8
limit = 8
verifier = "exact"
"""


class Program:
    """`tip` as a process that leads a group, as a terminal starts it."""

    groups: ClassVar[list[int]] = []

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.log = folder, folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tip.cli", *arguments],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)

    def wait_for(self, what: Callable[[], bool]) -> None:
        until = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < until, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)

    def ended(self) -> int:
        """Return the exit code; nothing of its group is left, and nothing said looks like code."""
        code = self.process.wait(SECONDS)
        until = time.monotonic() + SECONDS
        while left := living(self.process.pid):
            assert time.monotonic() < until, f"left running: {left}"
            time.sleep(0.1)
        assert "Traceback" not in self.log.read_text()
        return code

    def lines(self) -> list[dict[str, Any]]:
        """Return the metrics of all runs so far."""
        paths = sorted(self.folder.glob("runs/*/metrics.jsonl"))
        texts = [line for path in paths for line in path.read_text().split("\n")[:-1]]
        return [json.loads(text) for text in texts]


def living(group: int) -> list[int]:
    """Return the processes of a group that have not ended, those without a parent as well."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(of) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


@pytest.fixture(autouse=True)
def started() -> Iterator[None]:
    """Let no program that a test starts outlive it."""
    yield
    for group in Program.groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    Program.groups.clear()


@pytest.fixture
def folders(tmp_path: Path, problems: Path) -> Callable[..., Path]:
    def make(name: str, rounds: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        text = CONFIG.format(pair=PAIR, problems=problems, rounds=rounds)
        (folder / "x.toml").write_text(text)
        return folder

    return make


def results(folder: Path) -> dict[tuple[str, str, int], Any]:
    """Return what came of each stage of each run: its last numbers but those of time and memory."""
    found = {}
    for path in sorted(folder.glob("runs/*/metrics.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            kept = {k: line[k] for k in ("loss", "reverse_kl", "accuracy", "kept") if k in line}
            found[path.parent.name, line["stage"], line["round"]] = kept
    return found


@pytest.mark.soak
def test_a_program_in_training_leaves_a_snapshot_and_says_how_to_go_on(
    folders: Callable[..., Path],
) -> None:
    folder = folders("told", 12)
    program = Program(folder, "run", "x.toml")
    program.wait_for(lambda: len(program.lines()) >= 5)
    program.wait_for(lambda: program.lines()[-1]["stage"] == "select")
    program.process.send_signal(signal.SIGTERM)
    code = program.ended()
    assert code == TOLD, program.log.read_text()
    assert "the same command continues" in program.log.read_text()
    again = Program(folder, "run", "x.toml")
    assert again.ended() == 0
    whole = folders("whole", 12)
    assert Program(whole, "run", "x.toml").ended() == 0
    assert results(folder) == results(whole)


COMPARE = ("compare", "x.toml", "--rules", "q3", "--keep", "0.2", "--seeds", "1", "--workers", "2")


@pytest.mark.soak
@pytest.mark.parametrize("how", ["told", "told together", "interrupted", "killed"])
def test_a_comparison_that_ends_leaves_no_run_behind(
    folders: Callable[..., Path], how: str
) -> None:
    folder = folders("ended", 8)
    program = Program(folder, *COMPARE)
    program.wait_for(lambda: sum(m["stage"] == "train" for m in program.lines()) >= 2)
    assert len(living(program.process.pid)) > 2
    if how == "told":
        program.process.send_signal(signal.SIGTERM)
    elif how == "killed":
        program.process.kill()
    else:
        number = signal.SIGINT if how == "interrupted" else signal.SIGTERM
        os.killpg(program.process.pid, number)
    codes = {"interrupted": 130, "killed": -signal.SIGKILL}
    assert program.ended() == codes.get(how, TOLD)
    before = len(program.lines())
    again = Program(folder, *COMPARE)  # nobody holds its runs
    again.wait_for(lambda: len(again.lines()) > before)
    again.process.send_signal(signal.SIGTERM)
    assert again.ended() == TOLD
