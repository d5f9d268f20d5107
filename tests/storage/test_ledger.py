"""A ledger gives each second to one word, and counts one thread."""

import threading
import time

import pytest
from tip.storage import ledger as module
from tip.storage.ledger import Ledger


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_second_belongs_to_the_innermost_block(clock: Clock) -> None:
    ledger = Ledger()
    clock.now += 1  # in no block
    with ledger.of("loading"):
        clock.now += 2
        with ledger.of("waiting"):
            clock.now += 4
        clock.now += 8
        with ledger.of("loading"):
            clock.now += 16
    clock.now += 32
    ledger.add("compiling", 64)
    assert ledger.seconds() == {
        "loading": 2 + 8 + 16,
        "waiting": 4,
        "writing": 0,
        "compiling": 64,
    }


def test_an_open_block_counts_up_to_now_and_one_that_fails_is_closed(clock: Clock) -> None:
    ledger = Ledger()
    told: list[float] = []

    def fail() -> None:
        clock.now += 1
        told.append(ledger.seconds()["writing"])
        clock.now += 1
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), ledger.of("writing"):
        fail()
    clock.now += 1
    assert told == [1]
    assert ledger.seconds()["writing"] == 2


def test_what_another_thread_does_meanwhile_takes_no_time() -> None:
    ledger = Ledger()

    def work() -> None:
        with ledger.of("writing"):
            time.sleep(0.05)

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert not any(ledger.seconds().values())
