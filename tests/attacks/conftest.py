"""Problems for miniature runs in processes of their own."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.demo.task import write_problem_files


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problems")
    write_problem_files(folder, seed=3, train=120, held_out=34)
    return folder


@pytest.fixture(scope="session")
def asked(problems: Path) -> dict[str, Any]:
    """Return the section of an evaluation after every round."""
    return {
        "source": str(problems / "held_out.jsonl"),
        "template": "raw",
        "temperature": 0,
        "max_tokens": 8,
        "verifier": "exact",
        "every": 1,
    }


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """End what a failed test has left asleep: this process would wait for it for ever."""
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
