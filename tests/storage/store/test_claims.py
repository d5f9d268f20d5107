"""A waiter waits for a living holder, takes over from a silent one, and decides nothing."""

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from tip.storage.errors import StoreError
from tip.storage.processes import this_process
from tip.storage.store.claims import Patience, acquire
from tip.storage.store.places import LocalPlace

FOLDER = "teacher/00/" + "0" * 32
QUICK = Patience(beat_seconds=0.04, silence_seconds=0.4)


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "store")


def claims(place: LocalPlace) -> list[str]:
    return [entry.name.removeprefix(f"{FOLDER}/") for entry in place.entries(FOLDER)]


def never() -> bool:
    return False


def waited(place: LocalPlace) -> tuple[int, float]:
    """Return the number of the claim that this thread gets, and how long that took."""
    start = time.monotonic()
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    return claim.number, time.monotonic() - start


def test_a_claim_lies_in_the_folder_while_it_is_held(place: LocalPlace) -> None:
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    with claim:
        assert claims(place) == ["claim-1"]
    assert claims(place) == []


def test_an_error_frees_the_claim_at_once(place: LocalPlace) -> None:
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    with pytest.raises(RuntimeError), claim:
        raise RuntimeError
    number, seconds = waited(place)
    assert number == 1
    assert seconds < QUICK.silence_seconds


def test_nobody_takes_over_from_a_holder_that_beats(place: LocalPlace) -> None:
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    with claim:
        until = time.monotonic() + 4 * QUICK.silence_seconds
        assert acquire(place, FOLDER, QUICK, lambda: time.monotonic() > until) is None


def test_a_silent_holder_is_replaced_after_the_silence_and_no_sooner(place: LocalPlace) -> None:
    assert acquire(place, FOLDER, QUICK, never) is not None  # never entered: it does not beat
    number, seconds = waited(place)
    assert number == 2
    assert QUICK.silence_seconds <= seconds < 4 * QUICK.silence_seconds


def test_a_holder_whose_process_has_ended_is_replaced_at_once(place: LocalPlace) -> None:
    ended = {"process": this_process() | {"born": 1}, "token": "x", "beats": 3}
    assert place.create(f"{FOLDER}/claim-1", json.dumps(ended).encode())
    claim = acquire(place, FOLDER, Patience(silence_seconds=1000), never, wait=False)
    assert claim is not None
    assert claim.number == 2


def test_silence_is_counted_anew_when_the_holder_changes(place: LocalPlace) -> None:
    assert acquire(place, FOLDER, QUICK, never) is not None
    seconds: list[tuple[int, float]] = []
    waiter = threading.Thread(target=lambda: seconds.append(waited(place)))
    waiter.start()
    time.sleep(0.75 * QUICK.silence_seconds)
    assert place.create(f"{FOLDER}/claim-2", b"another holder")
    waiter.join()
    assert seconds[0][0] == 3
    assert seconds[0][1] >= 1.5 * QUICK.silence_seconds


def test_who_took_over_removes_the_claims_below_and_leaves_those_above(place: LocalPlace) -> None:
    assert acquire(place, FOLDER, QUICK, never) is not None
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    with claim:
        place.create(f"{FOLDER}/claim-3", b"later")
    assert claims(place) == ["claim-3"]


def test_the_wait_ends_when_the_work_is_done(place: LocalPlace) -> None:
    answers = iter([False, False, True])
    place.create(f"{FOLDER}/claim-1", b"")
    assert acquire(place, FOLDER, QUICK, lambda: next(answers)) is None
    assert claims(place) == ["claim-1"]


def test_only_one_of_many_threads_gets_a_free_claim(place: LocalPlace) -> None:
    got: list[object] = []
    stop = time.monotonic() + 0.2
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        if (claim := acquire(place, FOLDER, QUICK, lambda: time.monotonic() > stop)) is not None:
            got.append(claim)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_parts_that_look_like_claims_are_none(place: LocalPlace) -> None:
    place.create(f"{FOLDER}/{'d' * 32}/claim-7", b"")
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    assert claim.number == 1


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"{", b'{"holder": 3}'])
def test_a_torn_claim_is_waited_for_like_any_other(place: LocalPlace, text: bytes) -> None:
    place.create(f"{FOLDER}/claim-1", text)
    number, seconds = waited(place)
    assert number == 2
    assert seconds >= QUICK.silence_seconds


def test_the_log_says_once_for_whom_one_waits(
    place: LocalPlace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tip.storage.store.claims")
    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with claim:
        until = time.monotonic() + QUICK.silence_seconds
        acquire(place, FOLDER, QUICK, lambda: time.monotonic() > until)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"waiting for {FOLDER}, which {holder} is making"]


def test_a_beat_that_cannot_be_written_stops_nothing(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []

    def fail(name: str, data: bytes) -> None:
        beats.append(name)
        raise StoreError("disk full")

    claim = acquire(place, FOLDER, QUICK, never)
    assert claim is not None
    monkeypatch.setattr(place, "write", fail)
    with claim:
        time.sleep(5 * QUICK.beat_seconds)
    assert len(beats) >= 2
    assert claims(place) == []
