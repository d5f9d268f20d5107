"""A run killed anywhere and started again ends as if nothing had happened, and leaves nothing.

Anywhere: before, amid or after any call that changes the file system, drawn with a fixed seed.
"""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tip.storage.store.store import Store

from .homes import (
    HANGS,
    Child,
    Home,
    Outcome,
    committed,
    left_elsewhere,
    left_in_store,
    log_of,
    made_by,
    outcome,
    played,
    points_of,
)
from .killing import Order, Point, enter, surroundings

Prepare = Callable[[Home], None]
RUN = ("run", "config.toml")
BRANCH = ("run", "config.toml", "--name", "late", "--from", "run@1", "--set", "select.rule=random")


@dataclass(frozen=True)
class Attack:
    """A command, what it leads to when nobody kills it, and where it can be killed.

    prepare: makes a home in which it can be started. again: steps of training that a kill may cost.
    """

    arguments: tuple[str, ...]
    prepare: Prepare
    wanted: Outcome
    log: list[str]
    again: int

    def draw(self, case: int, begin: float = 0.0, end: float = 1.0) -> Point:
        """Return where to kill in a case. begin, end: shares of the run that are over by then."""
        points = points_of(self.log)
        drawn = random.Random(f"{self.arguments} {case}")
        return drawn.choice(points[int(begin * len(points)) : int(end * len(points))])

    def draw_beside(self, case: int) -> Point:
        """Return where to kill in a case while a state is written, whatever else goes on then."""
        return random.Random(f"beside {case}").choice(points_of(self.log, "beside"))


def attack(folder: Path, prepare: Prepare, again: int, arguments: tuple[str, ...] = RUN) -> Attack:
    """Play a command unkilled."""
    home = Home(folder)
    prepare(home)
    log = played(home.order(*arguments))
    assert left_in_store(home) == left_elsewhere(home) == []
    return Attack(arguments, prepare, outcome(home), log, again)


def check(attack: Attack, home: Home, before: dict[str, Any], *logs: list[str]) -> None:
    """Compare what a kill and the next start led to with what an unkilled run leads to.

    before: what was committed when it was killed. logs: of the killed process and the next one.
    """
    assert outcome(home) == attack.wanted
    kept = committed(home)
    assert {name: kept[name] for name in before} == before
    killed, after = logs
    there = {"/".join((kind, key)) for kind, _, key, *_ in (name.split("/") for name in before)}
    made = made_by(after)
    assert there.isdisjoint(made)
    assert len(made) == len(set(made))
    steps = killed.count("step") + after.count("step")
    assert steps <= attack.log.count("step") + attack.again
    for artifact in home.store.list():
        assert home.store.verify(artifact) == []
    assert left_elsewhere(home) == []
    left = left_in_store(home)
    home.grow_old()
    kept = committed(home)
    swept = Store(home.folder / "store").sweep(0)
    assert bool(swept) == bool(left)
    assert left_in_store(home) == []
    assert committed(home) == kept


def kill_and_start_again(attack: Attack, home: Home, point: Point) -> None:
    """Kill a command at a point and start it again."""
    attack.prepare(home)
    first = Child(home.order(*attack.arguments).at(point))
    assert first.ended() == -signal.SIGKILL, first.shown
    home.grow_old()
    before = committed(home)
    second = home.order(*attack.arguments)
    played(second)
    check(attack, home, before, log_of(first.order), log_of(second))
    shutil.rmtree(home.folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Attack:
    def prepare(home: Home) -> None:
        home.configure(problems, rounds=1)

    return attack(tmp_path_factory.mktemp("short"), prepare, again=3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Attack:
    def prepare(home: Home) -> None:
        home.configure(problems)

    return attack(tmp_path_factory.mktemp("plain"), prepare, again=3)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, problems: Path, asked: Any) -> Attack:
    """Return a run with evaluations, and with a snapshot after every step."""

    def prepare(home: Home) -> None:
        home.configure(problems, evaluate=asked, train={"snapshot_seconds": 0})

    return attack(tmp_path_factory.mktemp("full"), prepare, again=1)


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Attack:
    """Return a branch off a run whose states are there."""
    return branching(tmp_path_factory.mktemp("branched"), problems, states=True)


@pytest.fixture(scope="module")
def bereft(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Attack:
    """Return a branch off a run whose states are gone, and so are trained again."""
    return branching(tmp_path_factory.mktemp("bereft"), problems, states=False)


def branching(folder: Path, problems: Path, *, states: bool) -> Attack:
    origin = Home(folder / "origin")
    origin.configure(problems)
    played(origin.order(*RUN))
    if not states:
        shutil.rmtree(origin.folder / "runs" / "run" / "states")

    def prepare(home: Home) -> None:
        shutil.copytree(origin.folder, home.folder, dirs_exist_ok=True)

    return attack(folder / "whole", prepare, again=3, arguments=BRANCH)


@pytest.mark.parametrize("case", range(6))
def test_a_killed_run_goes_on(short: Attack, tmp_path: Path, case: int) -> None:
    kill_and_start_again(short, Home(tmp_path / "home"), short.draw(case))


@pytest.mark.soak
@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("kind", ["plain", "full"])
def test_a_run_killed_while_a_state_is_written_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, case: int
) -> None:
    attack: Attack = request.getfixturevalue(kind)
    kill_and_start_again(attack, Home(tmp_path / "home"), attack.draw_beside(case))


@pytest.mark.soak
@pytest.mark.parametrize("case", range(60))
@pytest.mark.parametrize("kind", ["plain", "full"])
def test_a_run_killed_anywhere_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, case: int
) -> None:
    attack: Attack = request.getfixturevalue(kind)
    kill_and_start_again(attack, Home(tmp_path / "home"), attack.draw(case))


@pytest.mark.soak
@pytest.mark.parametrize("case", range(25))
@pytest.mark.parametrize("kind", ["branched", "bereft"])
def test_a_branch_killed_anywhere_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, case: int
) -> None:
    attack: Attack = request.getfixturevalue(kind)
    kill_and_start_again(attack, Home(tmp_path / "home"), attack.draw(case))


CLI = "import pickle, sys; e, order = pickle.loads(bytes.fromhex(sys.argv[1])); e(order)"
ROOT = Path(__file__).parents[2]


def in_a_process_of_its_own(order: Order) -> subprocess.Popen[bytes]:
    """Start the command line in a process that shares nothing with this one."""
    said = pickle.dumps((enter, order)).hex()
    return subprocess.Popen([sys.executable, "-c", CLI, said], cwd=ROOT)


def tip(home: Home, *arguments: str) -> None:
    """Run the command line as a person does."""
    done = subprocess.run(
        [sys.executable, "-m", "tip.cli", *arguments],
        cwd=home.folder,
        env=os.environ | surroundings(home.folder),
        capture_output=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.soak
@pytest.mark.parametrize("case", range(20))
def test_a_command_killed_at_a_call_is_given_again(full: Attack, tmp_path: Path, case: int) -> None:
    home = Home(tmp_path / "home")
    full.prepare(home)
    # the log is that of a fork: a new process makes a few calls less, and may not write at this one
    order = home.order(*RUN).at(replace(full.draw(1000 + case, end=0.95), moment="before"))
    assert in_a_process_of_its_own(order).wait(HANGS) == -signal.SIGKILL
    give_again(full, home, order)


@pytest.mark.soak
@pytest.mark.parametrize("case", range(10))
def test_a_command_killed_between_calls_is_given_again(
    full: Attack, tmp_path: Path, case: int
) -> None:
    """Killed from outside, so inside of native code, too, soon after a drawn call."""
    home = Home(tmp_path / "home")
    full.prepare(home)
    order, calls = home.order(*RUN), full.draw(2000 + case, end=0.95).number
    process = in_a_process_of_its_own(order)
    until = time.monotonic() + HANGS
    while sum(line.startswith("call") for line in log_of(order)) < calls:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    give_again(full, home, order)


def give_again(attack: Attack, home: Home, order: Order) -> None:
    home.grow_old()
    before = committed(home)
    tip(home, *attack.arguments)
    check(attack, home, before, log_of(order), [])
    shutil.rmtree(home.folder)


BEGUN = 0.1  # of a run: by then it holds its folder


@dataclass(frozen=True)
class Asleep:
    """A run that was stopped at a drawn call, while others go on in its home."""

    home: Home
    child: Child

    def beside(self, *arguments: str, code: int = 0, jump: float = 0.0) -> str:
        """Run another command; return what it printed."""
        order = self.home.order(*arguments, silence=0.5)
        child = Child(order.at(Point(1, "before"), "jump", jump) if jump else order)
        assert child.ended() == code, child.shown
        return child.shown

    def woken(self) -> None:
        """Let it go on, to its good end."""
        self.child.send(signal.SIGCONT)
        assert self.child.ended() == 0, self.child.shown


def asleep(attack: Attack, home: Home, point: Point) -> Asleep:
    attack.prepare(home)
    child = Child(home.order(*RUN, silence=0.5).at(point, "stop"))
    assert child.stopped(), child.shown
    return Asleep(home, child)


def check_both(attack: Attack, home: Home) -> None:
    """Show that two runs of one config are what one of them would be alone, and share all."""
    for name in ("run", "other"):
        found = outcome(home, name)
        assert found.artifacts == attack.wanted.artifacts
        assert found.pointers[name] == attack.wanted.pointers["run"]
        # a round that the other one has trained leaves no state
        assert found.states[name].items() <= attack.wanted.states["run"].items()
        assert found.numbers[name] == attack.wanted.numbers["run"]
    for artifact in home.store.list():
        assert home.store.verify(artifact) == []
    assert left_elsewhere(home) == []
    home.grow_old()
    Store(home.folder / "store").sweep(0)
    assert left_in_store(home) == []


@pytest.mark.soak
@pytest.mark.parametrize("case", range(10))
def test_a_run_that_sleeps_is_overtaken_and_wakes_up(
    full: Attack, tmp_path: Path, case: int
) -> None:
    sleeper = asleep(full, Home(tmp_path / "home"), full.draw(3000 + case, BEGUN))
    assert "is being played by process" in sleeper.beside(*RUN, code=2)
    sleeper.beside(*RUN, "--name", "other")
    sleeper.beside("cache", "sweep", "--older-than", "0")
    sleeper.woken()
    check_both(full, sleeper.home)


@pytest.mark.soak
@pytest.mark.parametrize("case", range(10))
def test_a_sweep_by_a_wrong_clock_takes_nothing_from_a_run_that_sleeps(
    full: Attack, tmp_path: Path, case: int
) -> None:
    sleeper = asleep(full, Home(tmp_path / "home"), full.draw(4000 + case, BEGUN))
    sleeper.beside("cache", "sweep", jump=3650 * 86400.0)
    sleeper.woken()
    assert outcome(sleeper.home) == full.wanted
    assert left_in_store(sleeper.home) == left_elsewhere(sleeper.home) == []


@pytest.mark.soak
@pytest.mark.parametrize("days", [1, -1, 3650, -3650])
@pytest.mark.parametrize("case", range(2))
def test_a_clock_that_jumps_changes_nothing(
    full: Attack, tmp_path: Path, case: int, days: int
) -> None:
    home = Home(tmp_path / "home")
    full.prepare(home)
    played(home.order(*RUN).at(full.draw(5000 + case), "jump", days * 86400.0))
    assert outcome(home) == full.wanted
    assert left_in_store(home) == left_elsewhere(home) == []
