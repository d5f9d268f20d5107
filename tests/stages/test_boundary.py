"""Whatever a library raises is one line, and what never ends is ended."""

import resource
import signal
import threading
import time

import pytest
from tip.stages.boundary import one_line, within
from tip.storage.errors import InputError, ModelError


class Odd(Exception):
    """What a library of another language raises."""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (Odd("first\nsecond"), "the file: first second"),
        (Odd(), "the file: Odd"),
        (RecursionError("deep"), "the file: deep"),
        (KeyError("name"), "the file: 'name'"),
        (ValueError("x" * 999), "the file: " + "x" * 300 + " ..."),
    ],
)
def test_anything_is_one_line(raised: Exception, said: str) -> None:
    with (
        pytest.raises(ModelError) as it,
        one_line(lambda reason: ModelError(f"the file: {reason}")),
    ):
        raise raised
    assert str(it.value) == said
    assert it.value.__cause__ is raised


def test_what_is_one_line_already_stays() -> None:
    with pytest.raises(InputError, match=r"^as it is$"), one_line(ModelError):
        raise InputError("as it is")


def test_what_never_ends_is_ended_and_nothing_is_left_behind() -> None:
    def endless() -> None:
        with within(0.1):
            while True:
                pass

    with pytest.raises(TimeoutError, match=r"not ended after 0\.1 s"):
        endless()
    with within(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_another_thread_and_a_program_with_an_alarm_of_its_own_are_left_alone() -> None:
    done = []

    def work() -> None:
        with within(0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        work()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done == [True, True]


def test_what_takes_more_memory_than_it_may_is_ended_and_the_bound_goes() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), within(20, 1 << 26):
        bytearray(1 << 28)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(1 << 28)) == 1 << 28


def test_a_panic_of_a_library_in_rust_is_one_line() -> None:
    panic = type("PanicException", (BaseException,), {})
    with (
        pytest.raises(ModelError, match=r"^the file: index out of range$"),
        one_line(lambda reason: ModelError(f"the file: {reason}")),
    ):
        raise panic("index out of range")
