"""The process around vLLM, with a stand-in for vLLM: it ends whole, and its end is noticed.

The stand-in starts a child that would live on, as vLLM does off the CPU, where that child holds
the model. It is forked, so it also holds the pipe to the engine's owner open.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tip.stages.engines.protocols import Request
from tip.stages.engines.vllm.engine import VllmEngine, _temporary
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.engines.vllm.words import EngineMemoryError
from tip.storage.errors import ModelError
from vllm_pair import SAMPLING, spec

VLLM = """
import multiprocessing, os, tempfile, time
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace as Some

__version__ = "stand-in"
SamplingParams = Some

def hold():
    shared = SharedMemory(create=True, size=1)
    with open(os.environ["STAND_IN_PID"] + ".part", "w") as file:
        file.write(f"{os.getpid()} {shared.name}")
    os.rename(file.name, os.environ["STAND_IN_PID"])
    time.sleep(600)

class Engine:
    def __init__(self):
        self.waiting = {}
        self.vllm_config = Some(
            model_config=Some(get_vocab_size=lambda: 36, max_model_len=128),
            scheduler_config=Some(max_num_batched_tokens=64),
            use_v2_model_runner=True,
        )

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def add_request(self, name, prompt, params):
        if params.max_tokens == 13:
            raise RuntimeError("no such luck")
        self.waiting[name] = prompt["prompt_token_ids"]

    def abort_request(self, names):
        for name in names:
            del self.waiting[name]

    def step(self):
        time.sleep(0.02)
        name = next(iter(self.waiting))
        ids = self.waiting.pop(name)[-1:]  # the last of the prompt is said again
        with open(os.environ["STAND_IN_PID"] + ".computed", "a") as file:
            print(ids[0], file=file)
        flat = Some(token_ids=ids * 2, logprobs=[-0.1, -0.1])
        output = Some(token_ids=ids, logprobs=flat)
        return [Some(request_id=name, finished=True, outputs=[output])]

class LLM:
    def __init__(self, **_):
        multiprocessing.get_context("fork").Process(target=hold, daemon=True).start()
        while not os.path.exists(os.environ["STAND_IN_PID"]):
            time.sleep(0.01)
        os.mkdir(tempfile.gettempdir() + "/vllm_dist_1")
        self.llm_engine = Engine()
"""

PARAMS = """
class RequestOutputKind:
    FINAL_ONLY = 2
"""

ONE = replace(SAMPLING, top_most=1)


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineSpec]:
    """Return the spec of an engine on a GPU whose vLLM is the stand-in."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    (tmp_path / "vllm" / "sampling_params.py").write_text(PARAMS)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("STAND_IN_PID", str(tmp_path / "pid"))
    yield spec(tmp_path, device="cuda")
    tempfile.tempdir = None


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


def requests(count: int, first: int = 0) -> list[Request]:
    return [Request((2, 10 + first + i), 100 + first + i) for i in range(count)]


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
        engine.generate(requests(1), replace(ONE, max_tokens=13))  # the stand-in takes none
    assert not child()
    assert engine.closed


def test_a_killed_engine_is_noticed_though_its_child_holds_the_pipe(
    on_gpu: EngineSpec, child: Callable[[], bool]
) -> None:
    engine = VllmEngine(on_gpu)
    threading.Timer(0.5, os.kill, (engine._child.pid, signal.SIGKILL)).start()
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
        os.kill(engine._child.pid, signal.SIGKILL)
    engine.close()
    wait_until(lambda: not shared.exists(), "shared memory outlives its engine")


def left(tmp_path: Path) -> list[str]:
    """Return what lies where temporary files go, below this user's folder there."""
    (home,) = (tmp_path / "tmp").iterdir()
    return sorted(path.name for path in home.iterdir())


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_temporary_files_go_with_an_engine(
    on_gpu: EngineSpec, tmp_path: Path, killed: bool
) -> None:
    engine = VllmEngine(on_gpu)
    name, lock = left(tmp_path)
    assert lock == f"{name}.lock"
    assert [path.name for path in (tmp_path / "tmp").glob(f"*/{name}/*")] == ["vllm_dist_1"]
    if killed:
        os.kill(engine._child.pid, signal.SIGKILL)
    engine.close()
    assert left(tmp_path) == []


@pytest.mark.usefixtures("on_gpu")
def test_the_child_ends_with_a_killed_owner(child: Callable[[], bool], tmp_path: Path) -> None:
    program = (
        "import time\nfrom pathlib import Path\n"
        "from tip.stages.engines.vllm.engine import VllmEngine\n"
        "from tip.stages.engines.vllm.spec import EngineSpec\n"
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
    only_locks = lambda: {Path(name).suffix for name in left(tmp_path)} == {".lock"}  # noqa: E731
    wait_until(only_locks, "files outlive the child")


def test_nothing_asked_is_answered_at_once(on_gpu: EngineSpec) -> None:
    with VllmEngine(on_gpu) as engine:
        assert engine.score([], [], 4) == []
        made = engine.generate([], SAMPLING)
    assert (len(made.ids.counts), len(made.top.counts), len(made.stopped)) == (0, 0, 0)
    assert made.logprobs.dtype == np.float32


def computed(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "pid.computed").read_text().split()]


def test_what_was_begun_is_not_computed_twice(on_gpu: EngineSpec, tmp_path: Path) -> None:
    with VllmEngine(on_gpu) as engine:
        engine.prefetch(requests(3), ONE)
        ticks: list[int] = []
        made = engine.generate(requests(2, first=1), ONE, ticks.append)
        assert made.ids.values.tolist() == [11, 12]
        assert sum(ticks) == 2 * ONE.max_tokens
        assert engine.generate(requests(1), ONE).ids.values.tolist() == [10]
    assert sorted(computed(tmp_path)) == [10, 11, 12]


def test_what_others_made_is_dropped_and_the_rest_goes_on(
    on_gpu: EngineSpec, tmp_path: Path
) -> None:
    with VllmEngine(on_gpu) as engine:
        engine.prefetch(requests(40), ONE)
        engine.abort(requests(30, first=10), ONE)
        engine.abort(requests(5, first=90), ONE)  # never begun
        made = engine.generate(requests(10), ONE)
        assert made.ids.values.tolist() == list(range(10, 20))
        again = engine.generate(requests(1, first=39), ONE)
        assert again.ids.values.tolist() == [49]
    assert len(computed(tmp_path)) < 40


def test_an_engine_is_closed_where_its_answer_is_not_waited_for(
    on_gpu: EngineSpec, child: Callable[[], bool]
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    engine = VllmEngine(on_gpu)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests(50), ONE, interrupt)
    assert time.monotonic() - begin < 10
    assert engine.closed
    assert not child()
    with pytest.raises(ModelError, match="has been closed"):
        engine.generate(requests(1), ONE)


def test_kernels_that_torch_compiled_outlive_an_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = _temporary(str(tmp_path / "private"))
    assert found["TMPDIR"] == str(tmp_path / "private")
    assert Path(found["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert _temporary("x")["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
