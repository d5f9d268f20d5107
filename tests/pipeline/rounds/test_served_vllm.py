"""A real `vllm serve` as teacher: the table of one in memory, a restart in the middle, refusals."""

import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.arrays.ragged import from_lists
from tip.storage.errors import ConfigError, ModelError
from tip.storage.tables import read_table
from vllm_pair import needs_vllm

from ..conftest import PAIR, MakeConfig, numbers

pytestmark = needs_vllm


class Server:
    """`vllm serve` of the built-in teacher on a free port; its log stays beside it."""

    def __init__(self, folder: Path, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder, self.more = folder, more
        # vLLM's sockets lie there, and the path of one may have 107 characters
        self.temporary = tempfile.TemporaryDirectory()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        import os

        arguments = ["--port", str(self.port), "--host", "127.0.0.1", "--dtype", "float32"]
        arguments += ["--enforce-eager", "--no-enable-prefix-caching", *self.more]
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "TORCH_COMPILE_DISABLE": "1",
            "TMPDIR": self.temporary.name,
        }
        # what `vllm serve` starts; the command itself does not, where the package is vllm-cpu
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(PAIR / "teacher"), *arguments],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 240
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.5)

    def stop(self) -> None:
        import os
        import signal

        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), "--max-logprobs", "36")
    made.start()
    made.wait()
    yield made
    made.stop()


class Restarting(Reporter):
    """Kills the server while its second shard is asked for, and starts it again."""

    def __init__(self, server: Server) -> None:
        super().__init__(quiet=True)
        self.server, self.said, self.begin = server, [], time.monotonic()
        self.shards = 0

    def say(self, text: str) -> None:
        self.said.append(f"{time.monotonic() - self.begin:6.1f} s  {text}")

    def bar(self, title: str, total: int, unit: str) -> Any:
        outer = super().bar(title, total, unit)
        if "(teacher)" not in title:
            return outer
        reporter = self

        class Bar:
            def __enter__(self) -> Any:
                outer.__enter__()
                return reporter.tick

            def __exit__(self, *error: Any) -> Any:
                return outer.__exit__(*error)

        return Bar()

    def tick(self, _: int) -> None:
        self.shards += 1
        if self.shards == 3:  # in the middle of the first shard
            self.say("the server is killed")
            self.server.stop()
            threading.Thread(target=self.server.start, daemon=True).start()


def asking(server: Server, **changes: Any) -> dict[str, Any]:
    return {
        "rounds": 1,
        "score": {"mode": "separate", "engine": "server"},
        "teacher": {"server": {"url": server.url, "patience_seconds": 240, **changes}},
    }


def table(session: Session) -> Any:
    pointers = session.run.round(0)
    assert pointers is not None
    found = [session.store.find("teacher", key) for key in pointers.of("teacher")]
    return read_table([session.store.path(a, "teacher") for a in found if a])


def assert_as_in_memory(session: Session, config: MakeConfig) -> None:
    """Hold a served teacher's table against that of one in memory."""
    alone = open_session(config("alone", rounds=1, score={"mode": "separate"}))
    play(alone)
    ours, theirs = table(session), table(alone)
    same = [a == b for a, b in zip(*(t["ids"].to_pylist() for t in (ours, theirs)), strict=True)]
    assert np.mean(same) > 0.99  # a mass that ends at 0.99 up to rounding may go either way
    assert ours["position"].equals(theirs["position"])
    means = [float(np.mean(from_lists(t["logprobs"]).values)) for t in (ours, theirs)]
    assert means[0] == pytest.approx(means[1], abs=0.01)
    np.testing.assert_allclose(ours["entropy"], theirs["entropy"], atol=1e-4)
    assert numbers(session, "score", "lost_mass")[0] < 1e-6


def test_a_server_gives_the_table_of_a_teacher_in_memory(
    config: MakeConfig, server: Server
) -> None:
    session = open_session(config("served", **asking(server)))
    play(session)
    assert_as_in_memory(session, config)


def test_a_wrong_name_is_one_line(config: MakeConfig, server: Server) -> None:
    server.wait()
    with pytest.raises(ModelError, match=re.escape("but teacher.server.name = 'gpt'")):
        play(open_session(config(**asking(server, name="gpt"))))


def test_a_wrong_vocabulary_is_one_line(config: MakeConfig, server: Server, tmp_path: Path) -> None:
    import shutil

    server.wait()
    other = tmp_path / "teacher"
    shutil.copytree(PAIR / "teacher", other)
    student = tmp_path / "student"
    shutil.copytree(PAIR / "student", student)
    for folder in (other, student):  # a pair of another vocabulary than that of the server
        text = (folder / "tokenizer.json").read_text()
        one, two = '"7": ', '"8": '
        assert one in text
        assert two in text
        text = text.replace(one, '"#": ').replace(two, one).replace('"#": ', two)
        (folder / "tokenizer.json").write_text(text)
    settings = asking(server)
    settings["teacher"]["model"] = str(other)
    with pytest.raises(ModelError, match="must share one vocabulary"):
        play(open_session(config(**settings, student={"model": str(student)})))


@pytest.mark.soak
def test_a_server_that_restarts_in_the_middle_gives_the_same_table(
    config: MakeConfig, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that only speaks like vLLM's does in test_scorer.py."""
    server.wait()
    reporter = Restarting(server)
    session = open_session(config("served", **asking(server)), reporter)
    play(session)
    with capsys.disabled():
        print("\n" + "\n".join(reporter.said))
    assert any("is away" in text for text in reporter.said)
    assert_as_in_memory(session, config)


@pytest.mark.soak
def test_too_few_log_probs_are_one_line(config: MakeConfig, tmp_path: Path) -> None:
    small = Server(tmp_path, "--max-logprobs", "20")
    small.start()
    try:
        small.wait()
        with pytest.raises(ConfigError, match=r"start it with --max-logprobs 36"):
            play(open_session(config(**asking(small))))
    finally:
        small.stop()
