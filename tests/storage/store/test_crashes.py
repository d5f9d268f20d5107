"""Killed, stopped and racing processes: nothing is half-visible, and the next one succeeds.

Each worker is a real process that writes a word when it reaches a point and then waits there to
be killed or continued.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tip.storage.store.store import Draft, Patience, Store

INPUTS = {"seed": 1}
QUICK = Patience(beat_seconds=0.05, silence_seconds=0.5)

WORKER = """
import sys, time
from pathlib import Path
from tip.storage.store import places, store
from tip.storage.columns import SELECTION, schema
import pyarrow as pa

root, cache, point, name, silence, beat = sys.argv[1:]
here = Path(cache)
here.mkdir(parents=True, exist_ok=True)


def reach(what):
    if what == point:
        (here / f"{name}.{what}").write_text("")
        while not (here / f"{name}.go").exists():
            time.sleep(0.01)


def make(draft):
    (here / f"{name}.makes").write_text("")
    reach("make")
    with draft.file("model.bin").open("wb") as file:
        file.write(b"first half")
        file.flush()
        reach("half")
        file.write(b"second half")
    rows = [{"rollout": 1, "position": i, "weight": 1.0, "type": "Q1", "importance": 0.5}
            for i in range(5)]
    draft.table("picked", pa.Table.from_pylist(rows, schema=schema(SELECTION)), SELECTION)
    return {"by": name}


patience = store.Patience(float(beat), float(silence))
opened = store.Store(root, cache=here / name, patience=patience)
create = opened.place.create


def commit(where, data):
    if where.endswith("manifest.json"):
        reach("parts")
        if point == "manifest":
            # The manifest's bytes are on the disk, its name is not.
            places.os.link = lambda *names: reach("manifest")
    return create(where, data)


opened.place.create = commit
artifact, now = opened.ensure("selection", {"seed": 1}, make)
print(artifact.draft, artifact.facts["by"], now)
"""


class Worker:
    """A process in `ensure`, and the points it has reached."""

    def __init__(self, store: Store, folder: Path, name: str, point: str, **times: float) -> None:
        self.folder, self.name = folder, name
        times = {"silence": QUICK.silence_seconds, "beat": QUICK.beat_seconds} | times
        arguments = [str(store), str(folder), point, name, str(times["silence"])]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, str(times["beat"])],
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, point: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not self.reached(point):
            assert time.monotonic() < until, f"{self.name} does not reach {point}"
            assert self.process.poll() in (None, 0), f"{self.name} failed"
            time.sleep(0.01)

    def reached(self, point: str) -> bool:
        return (self.folder / f"{self.name}.{point}").exists()

    def go(self) -> None:
        (self.folder / f"{self.name}.go").write_text("")

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def result(self) -> tuple[str, str, bool]:
        """Return the artifact's draft, who made it, and whether this process did."""
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        draft, by, now = out.split()
        return draft, by, now == "True"


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Any]:
    workers: list[Worker] = []

    def begin(name: str, point: str = "nowhere", **times: float) -> Worker:
        workers.append(Worker(store, tmp_path / "work", name, point, **times))
        return workers[-1]

    yield begin
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()
        worker.process.stdout.close()


def make(draft: Draft) -> dict[str, Any]:
    draft.file("model.bin").write_bytes(b"whole")
    return {"by": "test"}


def committed(store: Store) -> set[str]:
    """Return all names in the store but those of one committed artifact."""
    (artifact,) = store.list()
    return {part.file.split("/")[0] for part in artifact.parts.values()} | {"manifest.json"}


def in_folder(store: Store) -> set[str]:
    """Return what lies in the artifact's folder."""
    return {entry.name.split("/")[3] for entry in store.place.entries("")}


@pytest.mark.parametrize(
    ("root", "point"),
    [
        *(("local", point) for point in ("make", "half", "parts", "manifest")),
        # A put is one request: in an object store nothing lies between parts and manifest.
        *(("s3", point) for point in ("make", "half", "parts")),
    ],
    indirect=["root"],
)
def test_a_killed_maker_leaves_nothing_that_can_be_seen(
    store: Store, start: Any, point: str
) -> None:
    worker = start("dead", point)
    worker.wait_for(point)
    worker.kill()
    assert list(store.list()) == []
    made, now = store.ensure("selection", INPUTS, make)
    assert now
    assert made.facts == {"by": "test"}
    assert store.verify(made) == []


@pytest.mark.parametrize("point", ["half", "parts"])
def test_a_sweep_removes_what_a_killed_maker_left(store: Store, start: Any, point: str) -> None:
    worker = start("dead", point)
    worker.wait_for(point)
    worker.kill()
    made, _ = store.ensure("selection", INPUTS, make)
    assert Store(str(store), cache=worker.folder / "dead").sweep(0)
    assert in_folder(store) == committed(store)
    assert list((worker.folder / "dead").glob(".drafts/*")) == []
    assert store.verify(made) == []
    assert store.sweep(0) == []


@pytest.mark.parametrize("point", ["half", "parts"])
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("root", ["local"], indirect=True)
def test_a_sweep_leaves_alone_what_a_living_maker_owns(
    store: Store, start: Any, point: str, stopped: bool
) -> None:
    worker = start("slow", point)
    worker.wait_for(point)
    if stopped:
        worker.send(signal.SIGSTOP)
    time.sleep(0.2)
    store.sweep(0)
    worker.send(signal.SIGCONT)
    worker.go()
    assert worker.result()[1:] == ("slow", True)
    (made,) = store.list()
    assert store.verify(made) == []


@pytest.mark.parametrize("root", ["s3"], indirect=True)
def test_in_an_object_store_a_sweep_leaves_alone_what_was_touched_lately(
    store: Store, start: Any
) -> None:
    worker = start("slow", "parts")
    worker.wait_for("parts")
    time.sleep(3)  # older than the limit below, but for the claim, which is renewed
    assert store.sweep(2) == []
    worker.go()
    assert worker.result()[1:] == ("slow", True)
    (made,) = store.list()
    assert store.verify(made) == []


def test_of_two_racing_processes_one_makes_and_both_get_it(store: Store, start: Any) -> None:
    patient = {"silence": 60.0}
    one, other = start("one", "make", **patient), start("other", "make", **patient)
    until = time.monotonic() + 60
    while not (one.reached("makes") or other.reached("makes")):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(1)
    first, second = (one, other) if one.reached("makes") else (other, one)
    assert not second.reached("makes")
    first.go()
    assert first.result()[1:] == (first.name, True)
    assert second.result()[1:] == (first.name, False)
    assert not second.reached("makes")
    assert in_folder(store) == committed(store)


def test_without_claims_both_make_and_the_first_to_commit_wins(store: Store, start: Any) -> None:
    one = start("one", "parts", silence=0)
    one.wait_for("parts")
    other = start("other", "parts", silence=0)
    other.wait_for("parts")
    other.go()
    winner = other.result()
    assert winner[1:] == ("other", True)
    one.go()
    assert one.result() == (winner[0], "other", False)
    assert in_folder(store) == committed(store)
    (made,) = store.list()
    assert store.verify(made) == []


@pytest.mark.parametrize("point", ["half", "parts"])
def test_a_maker_that_wakes_up_late_uses_what_was_made_meanwhile(
    store: Store, start: Any, point: str
) -> None:
    worker = start("late", point)
    worker.wait_for(point)
    worker.send(signal.SIGSTOP)
    made, now = store.ensure("selection", INPUTS, make)
    assert now
    worker.send(signal.SIGCONT)
    worker.go()
    assert worker.result() == (made.draft, "test", False)
    assert store.find("selection", made.key) == made
    assert in_folder(store) == committed(store)
    assert store.verify(made) == []


def test_many_processes_agree_on_one_artifact(store: Store, start: Any) -> None:
    workers = [start(f"w{n}", silence=0) for n in range(4)]
    results = [worker.result() for worker in workers]
    assert len({draft for draft, _, _ in results}) == 1
    assert [now for _, _, now in results].count(True) <= 1
    (made,) = store.list()
    assert made.draft == results[0][0]
    assert store.verify(made) == []
    assert {made.draft, "manifest.json"} == in_folder(store)
