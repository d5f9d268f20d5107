"""A state that is written beside is the one that is written at once, and nobody misses its end."""

import errno
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tip.stages.train import state as state_module
from tip.stages.train import states as module
from tip.stages.train.state import FILE, check_state, load_state, save_state
from tip.stages.train.states import States
from tip.stages.train.worlds.alone import Alone
from tip.storage.errors import StoreError
from tip.storage.ledger import Ledger

from .test_state import everything, trained

ABOUT = {"key": "k", "step": 2}


class Gate:
    """Holds writes up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.open, real = threading.Event(), module.write_state
        if error is not None:
            monkeypatch.setattr(state_module, "write_tensors", self._failing(error))

        def write(*arguments: Any) -> str:
            assert self.open.wait(60)
            return real(*arguments)

        monkeypatch.setattr(module, "write_state", write)

    def _failing(self, error: OSError) -> Any:
        def fail(*_: Any) -> None:
            raise error

        return fail


def texts(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as tensors:
        return tensors.metadata()


def test_what_is_written_beside_is_what_is_written_at_once(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path / "once", model, optimizer, ABOUT)
    states = States(Ledger())
    Alone(states).leave(tmp_path / "beside", model, optimizer, ABOUT)
    states.settle()
    once, beside = (tmp_path / name / FILE for name in ("once", "beside"))
    assert texts(once) == texts(beside)  # the hashes of all numbers among them
    check_state(tmp_path / "beside")
    assert states.close() is None


def test_the_process_goes_on_and_the_next_state_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, ledger = Gate(monkeypatch), Ledger()
    states, (model, optimizer) = States(ledger), trained()
    alone = Alone(states)
    alone.leave(tmp_path / "first", model, optimizer, ABOUT)
    states.check()
    assert not (tmp_path / "first" / FILE).exists()
    threading.Timer(0.2, gate.open.set).start()
    alone.leave(tmp_path / "second", model, optimizer, ABOUT)
    assert (tmp_path / "first" / FILE).exists()
    assert ledger.seconds()["waiting"] > 0.1
    assert states.close() is None
    assert (tmp_path / "second" / FILE).exists()


def test_what_was_written_is_let_go_of(tmp_path: Path) -> None:
    states, tensor = States(Ledger()), torch.ones(8)
    states.leave(tmp_path / "state", {"a": tensor}, ABOUT)
    states.settle()
    gone = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert gone() is None


def test_a_full_disk_is_told_once_in_the_words_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    states, (model, optimizer) = States(Ledger()), trained()
    words = r"state: the training state cannot be written \(No space left on device\); free some"
    for tell in (states.settle, states.check):
        gate.open.clear()
        Alone(states).leave(tmp_path / "state", model, optimizer, ABOUT)
        states.check()  # it is not known yet
        gate.open.set()
        with pytest.raises(StoreError, match=words):  # noqa: PT012  # the thread may not be there
            while True:
                tell()
        states.settle()
    Alone(states).leave(tmp_path / "state", model, optimizer, ABOUT)
    assert "No space left" in str(states.close())
    assert states.close() is None
    assert list(tmp_path.rglob("*.*")) == []


def test_a_state_of_this_process_is_read_without_its_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, (model, optimizer) = States(Ledger()), trained()
    Alone(states).leave(tmp_path / "mine", model, optimizer, ABOUT)
    states.settle()
    save_state(tmp_path / "other", model, optimizer, ABOUT | {"step": 3})
    hashed, real = [], state_module.tensor_hashes

    def hashes(*arguments: Any) -> dict[str, str]:
        hashed.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(state_module, "tensor_hashes", hashes)
    again, fresh = trained()
    Alone(states).load(tmp_path / "mine", again, fresh)
    assert hashed == []
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    Alone(states).load(tmp_path / "other", again, fresh)
    load_state(tmp_path / "mine", again, fresh)
    assert len(hashed) == 2
