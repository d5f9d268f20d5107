"""What is claimed is nobody else's to make, until it is made or let go."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tip.storage.errors import StoreError
from tip.storage.store.artifacts import Artifact
from tip.storage.store.claims import Patience
from tip.storage.store.store import Draft, Pending, Store

QUICK = Patience(beat_seconds=0.04, silence_seconds=0.4)
INPUTS = {"of": 1}


def make(draft: Draft) -> dict[str, Any]:
    draft.file("a.txt").write_text("a")
    return {}


def broken(draft: Draft) -> dict[str, Any]:
    draft.file("a.txt").write_text("half")
    raise RuntimeError("broken")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    return tuple(Store(tmp_path / "s", patience=QUICK) for _ in range(2))  # type: ignore[return-value]


def held(store: Store, inputs: dict[str, Any] = INPUTS) -> Pending:
    pending = store.begin("probe", inputs, wait=False)
    assert isinstance(pending, Pending)
    return pending


def test_a_living_holder_is_left_alone_however_long_it_takes(stores: tuple[Store, Store]) -> None:
    ours, theirs = stores
    with held(ours) as pending:
        threading.Event().wait(2 * QUICK.silence_seconds)
        assert theirs.begin("probe", INPUTS, wait=False) is None
        made, fresh = pending.make(make)
    assert fresh
    assert theirs.begin("probe", INPUTS, wait=False) == made


def test_several_are_held_at_once_and_each_is_committed_by_itself(
    stores: tuple[Store, Store],
) -> None:
    ours, theirs = stores
    first, second = held(ours, {"of": 1}), held(ours, {"of": 2})
    assert first.make(make)[1]
    assert isinstance(theirs.begin("probe", {"of": 1}, wait=False), Artifact)
    assert theirs.begin("probe", {"of": 2}, wait=False) is None
    second.release()
    assert held(theirs, {"of": 2}).make(make)[1]


def test_what_is_let_go_or_failed_is_free_at_once_and_leaves_nothing(
    stores: tuple[Store, Store],
) -> None:
    ours, theirs = stores
    held(ours).release()
    with pytest.raises(RuntimeError, match="broken"):
        held(ours).make(broken)
    assert list(ours.place.entries("")) == []
    held(theirs).release()


def test_a_failure_of_one_of_several_lets_go_of_that_one_alone(stores: tuple[Store, Store]) -> None:
    ours, theirs = stores
    first, second = held(ours, {"of": 1}), held(ours, {"of": 2})
    with pytest.raises(RuntimeError, match="broken"):
        first.make(broken)
    threading.Event().wait(2 * QUICK.silence_seconds)
    assert theirs.begin("probe", {"of": 2}, wait=False) is None
    assert held(theirs, {"of": 1}).make(make)[1]
    assert second.make(make)[1]


@pytest.mark.parametrize("silence", [QUICK.silence_seconds, 0.0])
def test_whoever_does_not_wait_takes_over_from_nobody(tmp_path: Path, silence: float) -> None:
    ours = Store(tmp_path / "s", patience=QUICK)
    hasty = Store(tmp_path / "s", patience=Patience(QUICK.beat_seconds, silence))
    with held(ours):
        assert hasty.begin("probe", INPUTS, wait=False) is None


def test_a_manifest_that_cannot_be_read_leaves_no_claim_held(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = stores
    answers: list[Any] = [None, None, StoreError("the network is gone")]

    def find(kind: str, key: str) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(ours, "find", find)
    with pytest.raises(StoreError, match="network is gone"):
        ours.begin("probe", INPUTS)
    assert answers == []
    held(theirs).release()


HOLDER = """
import sys, time
from tip.storage.store.store import Patience, Store

store = Store(sys.argv[1], patience=Patience(0.04, 0.4))
held = [store.begin("probe", {"of": number}, wait=False) for number in range(3)]
held[0].make(lambda draft: {})
print("held", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_held_is_taken_over_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", patience=Patience(silence_seconds=1000))
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert store.begin("probe", {"of": 1}, wait=False) is None
        process.kill()
    assert isinstance(store.begin("probe", {"of": 0}, wait=False), Artifact)
    for number in (1, 2):
        pending = store.begin("probe", {"of": number}, wait=False)
        assert isinstance(pending, Pending)
        made, fresh = pending.make(make)
        assert fresh
        assert store.verify(made) == []
    assert all(not name.startswith("claim") for name in files_of(store))


def files_of(store: Store) -> list[str]:
    return [entry.name.rsplit("/", 1)[1] for entry in store.place.entries("")]


def test_a_waiter_gets_what_the_holder_makes(stores: tuple[Store, Store]) -> None:
    ours, theirs = stores
    got: list[Any] = []
    pending = held(ours)
    waiter = threading.Thread(target=lambda: got.append(theirs.begin("probe", INPUTS)))
    waiter.start()
    made, _ = pending.make(make)
    waiter.join()
    assert got == [made]


def test_letting_go_twice_takes_nothing_from_the_next_holder(stores: tuple[Store, Store]) -> None:
    ours, theirs = stores
    pending = held(ours)
    pending.release()
    with held(theirs):
        pending.release()
        assert ours.begin("probe", INPUTS, wait=False) is None
