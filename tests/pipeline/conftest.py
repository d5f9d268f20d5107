"""Small real runs: the built-in pair, few prompts, few rounds, one thread."""

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.toml import make_config
from tip.pipeline.demo.task import write_problem_files
from tip.pipeline.session import Session

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
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

    def make(name: str = "run", **changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "name": name,
            "rounds": 2,
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
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


@pytest.fixture
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


def numbers(session: Session, stage: str, name: str) -> list[Any]:
    """Return one number of a stage, round after round, as recorded."""
    return [m[name] for m in session.run.metrics() if m["stage"] == stage]


def contents(session: Session) -> dict[str, list[str]]:
    """Return the content hashes of all artifacts that a run points to."""
    out: dict[str, list[str]] = {}
    for _, pointers in session.run.rounds():
        for kind in ("rollouts", "teacher", "tokens", "selection", "checkpoint"):
            for key in pointers.of(kind):
                artifact = session.store.find(kind, key)
                assert artifact is not None
                out.setdefault(kind, []).append(artifact.content)
    return out
