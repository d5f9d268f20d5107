"""A child answers, is waited for no longer than asked, and ends with all that it started."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tip.stages.engines.child import Child

PIPE = (
    "import os, sys, time\nfrom multiprocessing.connection import Connection\n"
    "pipe = Connection(int(sys.argv[-1]))\n"
)
# Says the id of a child that would live on and holds the pipe open, then echoes.
PARENT = PIPE + (
    "other = os.fork()\n"
    "if not other:\n    time.sleep(600)\n"
    "pipe.send(other)\n"
    "while True:\n    pipe.send(pipe.recv())\n"
)

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program given as text; it is gone when the test ends."""
    started: list[Child] = []

    def run(text: str, *arguments: str, leads: bool = True) -> Child:
        program = tmp_path / f"program{len(started)}.py"
        program.write_text(text)
        child = Child([str(program), *arguments], environment=dict(os.environ), leads=leads)
        started.append(child)
        return child

    yield run
    for child in started:
        child.end()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_messages_travel_both_ways_and_arguments_come_before_the_pipe(start: Start) -> None:
    child = start(PIPE + "pipe.send(sys.argv[1:-1])\npipe.send(pipe.recv())", "a", "b")
    assert child.receive() == ["a", "b"]
    child.send({"x": (1, None)})
    assert child.receive() == {"x": (1, None)}


def test_a_programs_folder_is_not_where_it_imports_from(start: Start, tmp_path: Path) -> None:
    (tmp_path / "select.py").write_text("raise SystemExit")
    assert start(PIPE + "import select\npipe.send(select.__name__)").receive() == "select"


def test_no_word_in_time_is_a_timeout_and_the_child_goes_on(start: Start) -> None:
    child = start(PIPE + "pipe.recv()\npipe.send('late')")
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        child.receive(0.3)
    assert 0.25 < time.monotonic() - begin < 10
    child.send("go on")
    assert child.receive() == "late"


def test_what_a_child_said_before_its_end_is_heard(start: Start) -> None:
    child = start(PIPE + "pipe.send('last words')")
    while child.alive():
        time.sleep(0.02)
    assert child.receive() == "last words"
    with pytest.raises(EOFError):
        child.receive()


def test_the_end_of_a_child_is_noticed_though_another_holds_the_pipe(start: Start) -> None:
    child = start(PARENT)
    other = child.receive()
    threading.Timer(0.3, os.kill, (child.pid, signal.SIGKILL)).start()
    with pytest.raises(EOFError):
        child.receive()
    assert lives(other)
    assert child.end() == -signal.SIGKILL
    assert not lives(other)


def test_an_end_takes_all_that_the_child_started(start: Start) -> None:
    child = start(PARENT)
    other = child.receive()
    assert lives(other)
    assert child.end() == -signal.SIGKILL
    assert not lives(other)
    assert not lives(child.pid)
    assert child.end() == -signal.SIGKILL  # a second time does nothing


def test_a_child_has_its_patience_to_end_by_itself(start: Start) -> None:
    text = PIPE + "pipe.send('ready')\ntry:\n    pipe.recv()\nexcept EOFError:\n    sys.exit(3)"
    child = start(text)
    child.receive()
    assert child.end(patience=20) == 3


def test_a_child_that_leads_no_group_yet_ends_all_the_same(start: Start) -> None:
    child = start(PIPE + "pipe.send(os.getpgid(0))\ntime.sleep(600)", leads=False)
    assert child.receive() == os.getpgid(0)  # Ctrl-C would reach it here
    assert child.end() == -signal.SIGKILL


def test_ctrl_c_reaches_no_child_that_leads(start: Start) -> None:
    child = start(PIPE + "pipe.send(os.getpgid(0))\ntime.sleep(600)")
    assert child.receive() == child.pid != os.getpgid(0)


def test_a_child_that_has_ended_takes_no_message(start: Start) -> None:
    child = start("")
    while child.alive():
        time.sleep(0.02)
    with pytest.raises(OSError, match=r"[Bb]roken pipe"):
        child.send("x")
    child.end()
    with pytest.raises(EOFError):
        child.receive()
