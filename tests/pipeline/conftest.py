"""Small real runs: the built-in pair, few prompts, few rounds, one thread.

Playing is what takes time: what several tests of a file only read is played once, with `shared`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from served import Served
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.toml import make_config
from tip.pipeline.demo.task import write_problem_files
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.storage.store.artifacts import Artifact

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problems")
    write_problem_files(folder, seed=3, train=400, held_out=40)
    return folder


@pytest.fixture
def config(tmp_path: Path, problems: Path) -> MakeConfig:
    """Return a maker of configs: keyword arguments change sections, `rollout={"samples": 2}`."""
    return maker(tmp_path, problems)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> MakeConfig:
    """Return one as `config` is, over one store for a file: of runs that its tests only read."""
    return maker(tmp_path_factory.mktemp("shared"), problems)


def maker(folder: Path, problems: Path) -> MakeConfig:
    def make(name: str = "run", **changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "name": name,
            "rounds": 2,
            "store": str(folder / "store"),
            "runs": str(folder / "runs"),
            "threads": 1,
            "student": {"model": str(PAIR / "student")},
            "teacher": {"model": str(PAIR / "teacher")},
            "prompts": {"source": str(problems / "train.jsonl"), "template": "raw"},
            "rollout": {"prompts": 64, "max_tokens": 64},
            "select": {"rule": "soft_or", "keep": 0.2},
            "train": {"lr": 3e-4, "rollouts_per_step": 16},
        }
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(values.get(key), dict) else value
        return make_config(values, "test")

    return make


@pytest.fixture(scope="session")
def asked(problems: Path) -> dict[str, object]:
    """Return the section of an evaluation after every round."""
    return {
        "source": str(problems / "held_out.jsonl"),
        "template": "raw",
        "temperature": 0,
        "max_tokens": 64,
        "verifier": "exact",
        "every": 1,
    }


@pytest.fixture
def served() -> Iterator[Served]:
    """Yield a server that holds the teacher."""
    server = Served(PAIR / "teacher")
    server.longest = 4096
    yield server
    server.stop()


def serving(served: Served) -> dict[str, Any]:
    """Return the changes of a small run whose teacher a server holds."""
    return {
        "rounds": 1,
        "rollout": {"prompts": 32},
        "score": {"mode": "separate", "engine": "server"},
        "teacher": {"server": {"url": served.url, "patience_seconds": 5}},
    }


class Listening(Reporter):
    """Keeps what is said, and the ticks of each bar by its title."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.ticks: dict[str, list[int]] = {}

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        yield self.ticks.setdefault(title, []).append

    def say(self, text: str) -> None:
        self.said.append(text)


def played(config: RunConfig) -> Session:
    session = open_session(config)
    play(session)
    return session


def copied(session: Session, config: RunConfig) -> Session:
    """Return a played run once more, in the empty store and runs of a config, to be changed."""
    shutil.copytree(session.config.store, config.store)
    shutil.copytree(session.config.runs, config.runs, symlinks=True)
    return open_session(config)


def numbers(session: Session, stage: str, name: str) -> list[Any]:
    """Return one number of a stage, round after round, as recorded."""
    return [m[name] for m in session.run.metrics() if m["stage"] == stage]


def artifacts(session: Session, kind: str) -> list[Artifact]:
    """Return the artifacts of a kind that a run points to, round after round."""
    keys = [key for _, pointers in session.run.rounds() for key in pointers.of(kind)]
    found = [session.store.find(kind, key) for key in keys]
    there = [artifact for artifact in found if artifact is not None]
    assert len(there) == len(keys)
    return there


def contents(session: Session) -> dict[str, list[str]]:
    """Return the content hashes of all artifacts that a run points to."""
    kinds = ("rollouts", "teacher", "tokens", "selection", "checkpoint")
    return {kind: [a.content for a in artifacts(session, kind)] for kind in kinds}
