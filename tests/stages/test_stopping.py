"""SIGTERM ends the process at once, or after the piece of work that it fell into."""

import os
import signal
from collections.abc import Iterator

import pytest
from tip.stages import stopping
from tip.stages.stopping import Terminated, obey_sigterm, whole


@pytest.fixture(autouse=True)
def obeyed() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    obey_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)
    stopping._asked.clear()


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_ends_at_once() -> None:
    with pytest.raises(Terminated):
        tell()


def test_a_piece_of_work_is_done_to_its_end() -> None:
    done: list[str] = []

    def work() -> None:
        with whole() as told:
            assert not told()
            with whole():
                tell()
                done.append("inner")
            assert told()
            done.append("outer")
        done.append("beyond")

    with pytest.raises(Terminated):
        work()
    assert done == ["inner", "outer"]


def test_an_error_of_the_work_is_told_instead() -> None:
    def work() -> None:
        with whole():
            tell()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
