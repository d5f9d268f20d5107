"""A training by several processes of this host: each is a rank of a sharded world."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...stages.engines.protocols import Tick
from ...stages.holder import Holder
from ...stages.models.cpu.process import set_up
from ...stages.models.device import resolve_device
from ...stages.models.merged import folder_of
from ...stages.train.worlds.sharded import Sharded
from ...storage.store.store import Store
from ..config.run import RunConfig
from .ranks import run_ranks

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
    run_ranks(_rank, (work, how.config), how.config.train.processes, how.logs, tick, say)


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
    device = resolve_device(config.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    store, attention = Store(config.store), set_up(device, config.threads, config.cpu)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size)
    try:
        files = partial(folder_of, store, say)
        holder = Holder(device, at_once=1, folder_of=files, attention=attention, say=say)
        work.trained(holder, store, tick, Sharded(device))
    finally:
        dist.destroy_process_group()
