"""Many processes on one store: what they share is made once, and each gets what it would alone."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tip.storage.store.store import Store

from .homes import (
    Child,
    Home,
    Outcome,
    left_elsewhere,
    left_in_store,
    log_of,
    made_by,
    outcome,
    played,
)
from .killing import Order

RULES = ("soft_or", "random", "entropy_top", "divergence")


@dataclass
class Alone:
    """What commands lead to alone, each in a home of its own; played when first asked for."""

    folder: Path
    problems: Path
    changes: dict[str, Any]

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, ...], Outcome] = {}

    def home(self, name: str) -> Home:
        """Return a new home for such runs."""
        home = Home(self.folder / name)
        home.configure(self.problems, **self.changes)
        return home

    def outcome(self, arguments: tuple[str, ...]) -> Outcome:
        """Return what one command leads to."""
        if arguments not in self._known:
            home = self.home(f"alone{len(self._known)}")
            played(home.order("run", "config.toml", *arguments))
            self._known[arguments] = outcome(home)
        return self._known[arguments]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Alone:
    return Alone(tmp_path_factory.mktemp("short"), problems, {"rounds": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, problems: Path, asked: Any) -> Alone:
    # snapshots come and go while they are verified
    train = {"snapshot_seconds": 0}
    return Alone(tmp_path_factory.mktemp("whole"), problems, {"evaluate": asked, "train": train})


def together(home: Home, each: Sequence[tuple[str, ...]]) -> list[Child]:
    """Start runs at one time, and wait for their ends."""
    children = [Child(home.order("run", "config.toml", *arguments)) for arguments in each]
    for child in children:
        child.ended()
    return children


@contextmanager
def looked_after(home: Home) -> Iterator[None]:
    """Verify and sweep a store meanwhile, over and over."""
    over, failed = threading.Event(), []

    def look() -> None:
        while not over.wait(0.5):
            for command in (("verify",), ("sweep", "--older-than", "0.02")):
                order = Order(("cache", *command), home.folder, home.folder / "looked.log")
                child = Child(order)
                if child.ended():
                    failed.append(child.shown)

    Store(home.folder / "store")
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed


def check(home: Home, alone: Alone, each: dict[str, tuple[str, ...]]) -> None:
    """Show that runs are what they would be alone. each: what was said of a run, but its name."""
    wanted = {name: alone.outcome(arguments) for name, arguments in each.items()}
    found = outcome(home)
    for name, only in wanted.items():
        assert found.pointers[name] == only.pointers["run"]
        # a round that another run has trained leaves no state here
        assert found.states[name].items() <= only.states["run"].items()
        assert found.numbers[name] == only.numbers["run"]
    artifacts = [only.artifacts for only in wanted.values()]
    assert found.artifacts == {key: value for all_ in artifacts for key, value in all_.items()}
    for artifact in home.store.list():
        assert home.store.verify(artifact) == []
    assert left_in_store(home) == left_elsewhere(home) == []


def check_made_once(children: Sequence[Child], home: Home) -> None:
    made = [key for child in children for key in made_by(log_of(child.order))]
    assert len(made) == len(set(made))
    assert len(made) == len(list(home.store.list()))


def share_rollouts(short: Alone, home: Home) -> None:
    """Play two rules at one time: rollouts and scores are what they share."""
    each = {"one": (), "other": ("--set", "select.rule=random")}
    children = together(home, [(*said, "--name", name) for name, said in each.items()])
    assert [child.ended() for child in children] == [0, 0], [c.shown for c in children]
    check(home, short, each)
    check_made_once(children, home)


def test_two_rules_share_what_both_need(short: Alone) -> None:
    share_rollouts(short, short.home("two"))


@pytest.mark.soak
@pytest.mark.parametrize("time", range(10))
def test_two_rules_share_what_both_need_whenever(short: Alone, time: int) -> None:
    share_rollouts(short, short.home(f"two{time}"))


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 5, 8])
def test_of_one_name_one_plays_and_the_others_are_refused(whole: Alone, count: int) -> None:
    home = whole.home(f"name{count}")
    with looked_after(home):
        children = together(home, [()] * count)
    codes = sorted(child.ended() for child in children)
    assert codes[0] == 0
    for child in children:
        if child.ended():
            assert_refused(child)
    check(home, whole, {"run": ()})


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 5, 8])
def test_of_many_names_with_one_config_all_is_made_once(whole: Alone, count: int) -> None:
    home, names = whole.home(f"names{count}"), [f"run{n}" for n in range(count)]
    with looked_after(home):
        children = together(home, [("--name", name) for name in names])
    assert [child.ended() for child in children] == [0] * count, [c.shown for c in children]
    check(home, whole, dict.fromkeys(names, ()))
    check_made_once(children, home)


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 5, 8])
@pytest.mark.parametrize("what", ["rules", "seeds"])
def test_many_runs_on_one_store_get_what_they_would_alone(
    whole: Alone, count: int, what: str
) -> None:
    home, each = whole.home(f"{what}{count}"), {}
    for n in range(count):
        rule = ("--set", f"select.rule={RULES[n % len(RULES)]}")
        each[f"run{n}"] = rule if what == "rules" else ("--set", f"seed={n % 4}")
    with looked_after(home):
        children = together(home, [(*said, "--name", name) for name, said in each.items()])
    assert [child.ended() for child in children] == [0] * count, [c.shown for c in children]
    check(home, whole, each)
    check_made_once(children, home)


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [0, 0.5, 1, 2, 3, 5])
def test_of_two_rules_under_one_name_one_plays(whole: Alone, seconds: float) -> None:
    """The other is refused in a line, whether it comes during the first one or after it."""
    home, rule = whole.home(f"late{seconds}"), ("--set", "select.rule=random")
    first = Child(home.order("run", "config.toml"))
    first.process.join(seconds)
    second = Child(home.order("run", "config.toml", *rule))
    codes = [first.ended(), second.ended()]
    assert sorted(codes) == [0, 2], [first.shown, second.shown]
    assert_refused(second if codes[1] else first)
    check(home, whole, {"run": rule if codes[0] else ()})


def assert_refused(child: Child) -> None:
    """Show that a run was refused in one line, since another one has its name."""
    assert child.ended() == 2
    *_, line = child.shown.strip().splitlines()
    assert line.startswith("error: run run in runs ")
    assert "is being played by process" in line or "was started with select.rule" in line
    assert "Traceback" not in child.shown
