"""A process of its own is named where it was killed, and ends where it is told to."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tip.pipeline.executors.own_process import in_own_process, tell_all_to_end
from tip.stages.stopping import Terminated
from tip.storage.errors import TipError


def die(_: None) -> None:
    os._exit(9)


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(TipError, match=r"process of run mine was killed.*same command continues"):
        in_own_process(die, None, "run mine")


def wait(folder: Path) -> None:
    """Wait for ever, and leave a word in the end."""
    try:
        (folder / "waits").touch()
        while True:
            time.sleep(0.05)
    finally:
        (folder / "ended").touch()


def test_a_function_that_runs_is_told_to_end_as_a_program_is(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(in_own_process, wait, tmp_path, "run mine")
        while not (tmp_path / "waits").exists():
            assert not waiting.done(), waiting.exception()
            time.sleep(0.05)
        tell_all_to_end()
        tell_all_to_end()
        assert isinstance(waiting.exception(60), Terminated)
    assert (tmp_path / "ended").exists()


def test_a_process_that_has_not_begun_is_told_as_well(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(in_own_process, wait, tmp_path, "run mine")
        while not waiting.done():
            tell_all_to_end()
            time.sleep(0.05)
        assert waiting.exception() is not None
