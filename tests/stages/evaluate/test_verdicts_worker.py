"""The program that asks math-verify greets, answers pair by pair, and keeps to its limits."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tip.stages.engines.child import Child
from tip.stages.evaluate import verdicts_worker
from tip.stages.evaluate.verdicts_worker import MEMORY

HANGING = "9^{9^{9^{9}}}"  # one big-integer power: Python never gets a turn while it runs


def started(seconds: float) -> Child:
    arguments = [verdicts_worker.__file__, str(seconds)]
    child = Child(arguments, environment=os.environ | {"PYTHONHASHSEED": "0"})
    assert child.receive(120) is None  # math-verify can be used
    return child


@pytest.fixture(scope="module")
def worker() -> Iterator[Child]:
    child = started(60)
    yield child
    child.end()


def test_pairs_are_answered_one_by_one_in_order(worker: Child) -> None:
    worker.send([(r"\frac{1}{2}", "0.5"), ("1", "2"), ("3", "3.0")])
    assert [worker.receive(60) for _ in range(3)] == [True, False, True]
    worker.send([("4", "4.0")])
    assert worker.receive(60) is True


def test_the_kernel_refuses_it_more_memory_than_its_limit(worker: Child) -> None:
    soft, _ = resource.prlimit(worker.pid, resource.RLIMIT_AS)
    assert soft <= MEMORY


def test_a_pair_that_runs_too_long_ends_the_program_though_its_parent_waits() -> None:
    child = started(0.5)
    child.send([("1", HANGING)])
    with pytest.raises(EOFError):
        child.receive(60)
    child.end()


def test_it_ends_when_its_line_closes() -> None:
    assert started(60).end(patience=60) == 0


def test_it_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from tip.stages.evaluate import verdicts_worker as w; w._judge()('1', '2');"
        "print(sorted({'torch', 'transformers', 'pydantic', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
