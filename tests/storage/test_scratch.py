"""A folder for a moment goes with its context, or with the next one after a kill."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tip.storage import scratch as module
from tip.storage.scratch import scratch

PROGRAM = """
from tip.storage.scratch import scratch
with scratch() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def files(temporary: Path) -> list[str]:
    return sorted(p.name for p in temporary.rglob("*") if p.is_file())


def test_a_folder_goes_with_its_context(temporary: Path) -> None:
    with scratch() as one, scratch() as two:
        (one / "file").touch()
        assert one != two
        assert "file" in files(temporary)
    assert files(temporary) == []


def test_what_a_killed_process_left_goes_with_the_next_one_and_a_living_ones_stays(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.0)
    command = [sys.executable, "-c", PROGRAM]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    time.sleep(0.01)
    with scratch():
        assert (left / "file").exists()
    child.kill()
    child.communicate()
    with scratch():
        assert not left.exists()
    assert files(temporary) == []


def test_a_folder_of_somebody_elses_is_not_used(temporary: Path) -> None:
    (temporary / "theirs").mkdir()
    (temporary / f"tip-{os.getuid()}").symlink_to(temporary / "theirs")
    with scratch() as folder:
        assert not folder.resolve().is_relative_to(temporary / "theirs")
