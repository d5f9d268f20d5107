"""Where a run would compute: on the device that is here, or on a card that is named."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch

from ...stages.models.settings import ModelSettings
from ...storage.errors import ConfigError
from ..config.run import RunConfig
from ..progress import resident

Model = TypeVar("Model", bound=ModelSettings)
_H200 = 143_771 << 20  # bytes, as its driver says; others have the GiB of their name
_LARGEST = 10_000  # GB
CONTEXT = 600 << 20
"""Bytes of a card that CUDA, cuBLAS and the gaps of the allocator take; assumed, not measured."""
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Bytes of memory or of a disk."""

    free: int
    total: int


@dataclass(frozen=True)
class Target:
    """A device that a plan is made for.

    name: as people are told. usable: bytes that a run may have of `total`; on a CPU this process is
    among them, for an estimate holds it.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    usable: int
    total: int

    @property
    def on_cpu(self) -> bool:
        """Return whether it is a CPU."""
        return self.kind == "cpu"


def here(device: torch.device) -> Target:
    """Return the device of this machine."""
    room = memory_of(device)
    if device.type == "cuda":
        return Target(str(device), "cuda", room.free, room.total)
    return Target("cpu", "cpu", room.free + resident(), room.total)


def card(gigabytes: float) -> Target:
    """Return a GPU of so many GB, as in its name."""
    if not 1 <= gigabytes <= _LARGEST:  # nor a nan
        raise ConfigError(
            f"--card {gigabytes:g}: expected a GPU's memory in GB, 1 to {_LARGEST:,}, such as 24"
        )
    total = _H200 if gigabytes == 141 else int(gigabytes * (1 << 30))
    return Target(f"a card of {gigabytes:g} GB", "cuda", total - CONTEXT, total)


def on_card(config: RunConfig) -> RunConfig:
    """Return what a config means on a GPU, where this machine may have none.

    The types that `auto` stands for are named, so that keys are those of a run on that card; which
    attention it has there changes no figure of a plan.
    """

    def typed(dtype: str) -> str:
        return "bfloat16" if dtype == "auto" else dtype

    def meant(model: Model) -> Model:
        return model.model_copy(update={"dtype": typed(model.dtype), "attn_implementation": "auto"})

    train = config.train.model_copy(update={"autocast": typed(config.train.autocast)})
    return config.model_copy(
        update={
            "device": "auto",
            "student": meant(config.student),
            "teacher": meant(config.teacher),
            "train": train,
        }
    )


def memory_of(device: torch.device) -> Room:
    """Return the memory of a device; of a CPU what this process may have of it."""
    if device.type == "cuda":
        return Room(*torch.cuda.mem_get_info(device))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = Room(total, total)
    if _MEMINFO.is_file():
        free = _field(_MEMINFO.read_text(), "MemAvailable:") << 10  # written in KiB
        room = Room(min(free, total), total)
    limit = _CGROUP / "memory.max"  # of a container or a batch job
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((_CGROUP / "memory.current").read_text())
        stat = (_CGROUP / "memory.stat").read_text()
        used -= _field(stat, "file") - _field(stat, "shmem")  # given back when asked for
        room = Room(min(room.free, int(text) - used), min(room.total, int(text)))
    return room


def _field(text: str, name: str) -> int:
    words = next(line.split() for line in text.splitlines() if line.split()[:1] == [name])
    return int(words[1])
