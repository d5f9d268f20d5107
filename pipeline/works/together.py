"""A training by several processes: each is a rank of a sharded world.

They are started here for each training, on this host, or were started by torchrun, on any number of
hosts: then the first of them plays the run, and the others follow it from training to training.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...stages.engines.protocols import Tick, silent
from ...stages.holder import Holder
from ...stages.models.cpu.process import set_up
from ...stages.models.device import resolve_device
from ...stages.models.merged import folder_of
from ...stages.train.worlds.launched import Launched, launched
from ...stages.train.worlds.sharded import Sharded
from ...storage.errors import TipError
from ...storage.store.store import Store
from ..config.run import RunConfig
from .ranks import run_ranks

_SAID = 200  # characters of what torch says of it

if TYPE_CHECKING:
    from .training import TrainWork


@dataclass(frozen=True)
class Together:
    """The processes of a training.

    config: says how many, on which devices, and what a CPU is told. logs: folder of what they
    print.
    """

    config: RunConfig
    logs: Path


def together(config: RunConfig, run: Path) -> Together:
    """Return the processes that a config asks for. run: the run's folder."""
    return Together(config, run / "logs")


def train_together(
    work: "TrainWork", how: Together, tick: Tick, say: Callable[[str], None]
) -> None:
    """Train by several processes, which leave the training state and nothing else."""
    hosts = launched()
    if hosts is None:
        run_ranks(_rank, (work, how.config), how.config.train.processes, how.logs, tick, say)
        return
    hosts.give((work, how.config))
    with _losses_named():
        _train_as(hosts, work, how.config, tick, say)


def follow(hosts: Launched) -> None:
    """Take part in each training of the run that the first process plays, until it ends."""
    while (given := hosts.taken()) is not None:
        work, config = given
        with _losses_named():
            _train_as(hosts, work, config, silent, lambda _: None)


def _train_as(
    hosts: Launched,
    work: "TrainWork",
    config: RunConfig,
    tick: Tick,
    say: Callable[[str], None],
) -> None:
    device = _device(config, hosts.local)
    with hosts.group(_backend(device)):
        _train(work, config, device, hosts.beside, tick, say)


@contextmanager
def _losses_named() -> Iterator[None]:
    """Say of a collective that broke that it was another process that did not come."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TipError(
            f"the training broke off ({' '.join(str(error).split())[:_SAID]}): if a process of it "
            "was killed, torchrun says which; the same command continues from the last snapshot"
        ) from error


def _rank(
    given: tuple["TrainWork", RunConfig],
    rank: int,
    size: int,
    address: str,
    tick: Tick,
    say: Callable[[str], None],
) -> None:
    """Train as one of the ranks: on the GPU of its number, or on the CPU."""
    work, config = given
    device = _device(config, rank)
    dist.init_process_group(_backend(device), init_method=address, rank=rank, world_size=size)
    try:
        _train(work, config, device, size, tick, say)
    finally:
        dist.destroy_process_group()


def _train(
    work: "TrainWork",
    config: RunConfig,
    device: torch.device,
    beside: int,
    tick: Tick,
    say: Callable[[str], None],
) -> None:
    """Train as one of a world. beside: the processes that share this host's cores."""
    threads = config.threads or max(1, torch.get_num_threads() // beside)
    store, attention = Store(config.store), set_up(device, threads, config.cpu)
    files = partial(folder_of, store, say)
    holder = Holder(device, at_once=1, folder_of=files, attention=attention, say=say)
    try:
        work.trained(holder, store, tick, Sharded(device))
    finally:
        holder.close()  # a process that goes on leaves the device to what comes between trainings


def _device(config: RunConfig, local: int) -> torch.device:
    """Return the device of a process by its number on its host."""
    device = resolve_device(config.device)
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
