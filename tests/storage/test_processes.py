"""A process is known to have ended, or nobody knows."""

import json
import subprocess
import sys
from typing import Any

import pytest
from tip.storage import processes
from tip.storage.processes import has_ended, note_ended, this_process

PROGRAM = """
import json
from tip.storage.processes import this_process
print(json.dumps(this_process()), flush=True)
input()
"""


def test_this_process_has_not_ended_and_one_that_was_killed_has() -> None:
    assert not has_ended(this_process())
    command = [sys.executable, "-c", PROGRAM]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout is not None
    about = json.loads(child.stdout.readline())
    assert not has_ended(about)
    child.kill()
    child.communicate()
    assert has_ended(about)


def test_a_number_that_another_process_got_meanwhile_is_not_taken_for_it() -> None:
    assert has_ended(this_process() | {"born": 1})


@pytest.mark.parametrize("change", [{"boot": "another"}, {"space": "pid:[1]"}, {"pid": "1"}])
def test_of_another_machine_nothing_is_known(change: dict[str, Any]) -> None:
    assert not has_ended(this_process() | {"born": 1} | change)


def test_what_others_have_seen_to_end_has_ended_on_any_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_told", [])
    far = this_process() | {"boot": "another"}
    assert not has_ended(far)
    note_ended(far)
    assert has_ended(far)
    assert not has_ended(far | {"born": 1})


@pytest.mark.parametrize("text", [None, "process 1 on host", {}, [], {"pid": 1}])
def test_of_what_a_stranger_wrote_nothing_is_known(text: object) -> None:
    assert not has_ended(text)
