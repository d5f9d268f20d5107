"""One process holds a folder; the dead hold nothing."""

import fcntl
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tip.storage import locks
from tip.storage.errors import StoreError
from tip.storage.locks import HeldError, held, on_network
from tip.storage.store.claims import Patience

PROGRAM = """
import sys
from pathlib import Path
from tip.storage.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
QUICK = Patience(beat_seconds=0.04, silence_seconds=0.4)


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    yield child
    child.kill()
    child.communicate()


def test_a_folder_that_another_process_holds_is_refused_with_its_name(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "run") as other,
        pytest.raises(HeldError, match=f"process {other.pid} on "),
        held(tmp_path / "run"),
    ):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.kill()
        other.wait()
        with held(tmp_path):
            assert (tmp_path / locks.FILE).read_text().startswith("process ")


def test_what_was_held_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path):
            pass


@pytest.mark.parametrize("locks_known", [True, False])
def test_on_a_networks_file_system_a_claim_is_held_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks_known: bool
) -> None:
    def flock(*_: Any) -> None:
        """Stand for the kernel of another host, or for a file system without locks."""
        if not locks_known:
            raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "on_network", lambda _: True)
    with (
        held(tmp_path, QUICK),
        pytest.raises(HeldError, match="a process of another host"),
        held(tmp_path, QUICK),
    ):
        pass
    with held(tmp_path, QUICK):
        pass


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path.resolve()
    (here / "a b" / "c").mkdir(parents=True)
    mounts = (
        f"/dev/x / ext4 rw 0 0\nhost:/x {here}/a\\040b nfs4 rw 0 0\nz {here}/a\\040b/c ext4 r 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda _: mounts)
    found = [on_network(here / part) for part in (".", "a b", "a b/c", "a b/d")]
    assert found == [False, True, False, True]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cannot write .*file/run/lock"),
        held(tmp_path / "file/run"),
    ):
        pass


def test_the_refusal_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(HeldError("process 1 on x")))
    assert (str(error), error.holder) == ("it is held by process 1 on x", "process 1 on x")
