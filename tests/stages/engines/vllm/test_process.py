"""The process around vLLM, with a stand-in for vLLM: it ends whole, and its end is noticed.

The stand-in starts a child that would live on, as vLLM does off the CPU, where that child holds
the model. It is forked, so it also holds the pipe to the engine's owner open.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tip.stages.engines.vllm.engine import VllmEngine
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.engines.vllm.words import EngineMemoryError
from vllm_pair import SAMPLING, spec

VLLM = """
import multiprocessing, os, time
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace as Some

__version__ = "stand-in"

def hold():
    shared = SharedMemory(create=True, size=1)
    with open(os.environ["STAND_IN_PID"] + ".part", "w") as file:
        file.write(f"{os.getpid()} {shared.name}")
    os.rename(file.name, os.environ["STAND_IN_PID"])
    time.sleep(600)

class LLM:
    def __init__(self, **_):
        multiprocessing.get_context("fork").Process(target=hold, daemon=True).start()
        while not os.path.exists(os.environ["STAND_IN_PID"]):
            time.sleep(0.01)
        config = Some(
            model_config=Some(get_vocab_size=lambda: 36, max_model_len=128),
            scheduler_config=Some(max_num_batched_tokens=64),
            use_v2_model_runner=True,
        )
        self.llm_engine = Some(vllm_config=config, has_unfinished_requests=lambda: False)
"""


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    """Return the spec of an engine on a GPU whose vLLM is the stand-in."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("STAND_IN_PID", str(tmp_path / "pid"))
    return spec(tmp_path, device="cuda")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Return whether the child that holds the model lives; end it after the test."""
    path = tmp_path / "pid"

    def lives() -> bool:
        try:
            state = Path(f"/proc/{path.read_text().split()[0]}/stat").read_text()
        except FileNotFoundError:
            return False
        return state.rpartition(")")[2].split()[0] != "Z"

    yield lives
    if lives():
        os.kill(int(path.read_text().split()[0]), signal.SIGKILL)


def wait_until(fact: Callable[[], bool], text: str) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_closing_an_engine_ends_the_child_that_holds_the_model(
    on_gpu: EngineSpec, child: Callable[[], bool]
) -> None:
    engine = VllmEngine(on_gpu)
    assert child()
    engine.close()
    assert not child()
    engine.close()  # a second time does nothing


def test_an_engine_that_fails_ends_the_child_that_holds_the_model(
    on_gpu: EngineSpec, child: Callable[[], bool]
) -> None:
    engine = VllmEngine(on_gpu)
    with pytest.raises(ValueError, match="vLLM failed"):
        engine.score([np.array([2, 3])], [1], 1)  # the stand-in takes no requests
    assert not child()


def test_a_killed_engine_is_noticed_though_its_child_holds_the_pipe(
    on_gpu: EngineSpec, child: Callable[[], bool]
) -> None:
    engine = VllmEngine(on_gpu)
    threading.Timer(0.5, os.kill, (engine._process.pid, signal.SIGKILL)).start()
    with pytest.raises(EngineMemoryError, match="was killed"):
        engine._receive("done", lambda _: None)
    assert not child()


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_shared_memory_goes_with_an_engine(
    on_gpu: EngineSpec, tmp_path: Path, killed: bool
) -> None:
    engine = VllmEngine(on_gpu)
    shared = Path("/dev/shm") / (tmp_path / "pid").read_text().split()[1]
    assert shared.exists()
    if killed:
        engine._process.kill()
    engine.close()
    wait_until(lambda: not shared.exists(), "shared memory outlives its engine")


@pytest.mark.usefixtures("on_gpu")
def test_the_child_ends_with_a_killed_owner(child: Callable[[], bool]) -> None:
    program = (
        "import time\nfrom pathlib import Path\n"
        "from tip.stages.engines.vllm_engine import EngineSpec, VllmEngine\n"
        "e = VllmEngine(EngineSpec(Path('m'), 'float32', 'cuda', 128, 64, 36, 36))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    assert child()
    owner.kill()
    owner.wait()
    wait_until(lambda: not child(), "the child outlives the owner of its engine")


def test_children_of_vllm_inherit_no_pipe() -> None:
    for device in ("cpu", "cuda"):
        environment = spec(Path("m"), device=device).environment()
        assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_nothing_asked_is_answered_at_once(on_gpu: EngineSpec) -> None:
    with VllmEngine(on_gpu) as engine:
        assert engine.score([], [], 4) == []
        made = engine.generate([], SAMPLING)
    assert (len(made.ids.counts), len(made.top.counts), len(made.stopped)) == (0, 0, 0)
    assert made.logprobs.dtype == np.float32
