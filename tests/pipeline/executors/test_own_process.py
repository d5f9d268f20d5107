"""A process of its own is named where it was killed."""

import os

import pytest
from tip.pipeline.executors.own_process import in_own_process
from tip.storage.errors import TipError


def die(_: None) -> None:
    os._exit(9)


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(TipError, match=r"process of run mine was killed.*same command continues"):
        in_own_process(die, None, "run mine")
