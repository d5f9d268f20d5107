"""Processes that `torchrun` started, on one host or several, and that meet for each training.

The first plays the run; the others wait until it gives them something to train. They find each
other through the store that torchrun keeps, so waiting costs no collective and knows no time limit,
and each training has a group of its own.

Source: PyTorch, "torchrun (Elastic Launch)", its environment variables.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ....storage.errors import TipError

FAILED = "failed"
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
_OF_LAUNCH = ("TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_LOOK = timedelta(seconds=30)  # how long a look for the next training waits for it
_given = 0  # trainings that this process has been part of; a store never forgets a key


@dataclass(frozen=True)
class Launched:
    """One of the processes. rank, size: among all. local, beside: among those of its host."""

    rank: int
    size: int
    local: int
    beside: int
    store: Any

    def give(self, training: Any) -> None:
        """Let all others take a training, or end: well with None, else with `FAILED`."""
        self.store.set(_name(), pickle.dumps(training))

    def taken(self) -> Any:
        """Wait for the next training and return it, None at the end.

        Ends this process where the first has failed, which says why. Raises `TipError` where
        torchrun is gone.
        """
        while True:
            try:
                self.store.wait([_name()], _LOOK)
            except dist.DistNetworkError as error:
                raise TipError("torchrun's own process is gone, and with it the run") from error
            except dist.DistStoreError:  # nothing yet
                continue
            training = pickle.loads(self.store.get(_name()))
            if training == FAILED:
                raise SystemExit(2)
            return training

    @contextmanager
    def group(self, backend: str) -> Iterator[None]:
        """Be one of torch's default group while a training runs."""
        global _given  # noqa: PLW0603  # of the process, as the group is
        store = PrefixStore(f"tip/group/{_given}", self.store)
        _given += 1
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        try:
            yield
        finally:
            dist.destroy_process_group()


_here: Launched | None = None


def join() -> Launched | None:
    """Return this process's place among those that torchrun started, None where it did not.

    The names of the place leave the environment: what this process starts is no rank of it.
    """
    global _here  # noqa: PLW0603  # torchrun's variables are those of the process, too
    if _OF_TORCHRUN not in os.environ:
        return None
    rank, local, size, beside = (int(os.environ[name]) for name in _PLACE)
    store, _, _ = next(rendezvous("env://"))
    for name in list(os.environ):
        if name in _PLACE or name.startswith(_OF_LAUNCH):
            del os.environ[name]
    _here = Launched(rank, size, local, beside, store)
    return _here


def launched() -> Launched | None:
    """Return what `join` found."""
    return _here


def _name() -> str:
    return f"tip/training/{_given}"
