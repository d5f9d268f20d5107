"""Whether what a run needs of memory and of disks is there.

What it needs for certain (weights) must be there; an estimate that is beyond is a note.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from ...storage.errors import ConfigError
from ...storage.files import nearest, user_path
from ...storage.store.places import LocalPlace
from ..plan.disk import WeightsOnDisk
from ..progress import resident
from ..show.cells import size
from .examined import Examined, NotLookedError

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_SMALLER = {  # by the first word of a stage: what needs less for certain, and what needs less
    "rollout": ("set student.dtype = 'bfloat16'", "lower rollout.batch_size"),
    "score": (
        "set score.mode = 'separate', teacher.dtype = 'bfloat16', or let vLLM or a server read",
        "set score.mode = 'separate', or lower score.chunk_elements",
    ),
    "train": (
        "train a smaller student, or on a larger device",
        "lower train.batch_tokens, or set train.activation_checkpointing = true",
    ),
    "evaluate": ("set student.dtype = 'bfloat16'", "lower evaluate.batch_size"),
}


class Room(NamedTuple):
    """Bytes of memory or of a disk."""

    free: int
    total: int


class _Writes(NamedTuple):
    """Bytes that go to a folder: for certain, and at most."""

    name: str
    folder: Path
    least: int
    most: int


def memory(examined: Examined) -> str:
    """Compare what each stage needs of the device with what there is."""
    device, needs = examined.session.device, examined.plan.memory
    room = memory_of(device)
    known = [
        (n.stage, n.least, n.bytes) for n in needs if n.least is not None and n.bytes is not None
    ]
    if not known:
        raise NotLookedError("how large the models are shows when their weights are here")
    # an estimate for a CPU holds this process, which is no longer free
    beside = resident() if device.type == "cpu" else 0
    has = f"{size(room.free)} of {size(room.total)} are free on {device}"
    for stage, least, estimate in known:
        for_certain, at_most = _SMALLER[stage.split()[0]]
        if least > room.total:
            raise ConfigError(
                f"{stage} takes {size(least)} at the very least, and {device} has "
                f"{size(room.total)}: {for_certain}"
            )
        if estimate > room.free + beside:
            examined.notes.say(
                f"{stage} takes about {size(estimate)}, and {has}: free some, or {at_most}"
            )
    stage, _, estimate = max(known, key=lambda need: need[2])
    return f"{stage} takes most, about {size(estimate)}; {has}"


def disk(examined: Examined) -> str:
    """Compare what is still to be written with what is free where it goes."""
    config, plan = examined.config, examined.plan
    weights = plan.weights or WeightsOnDisk(0, 0, 0)
    writes = [_Writes(config.runs, user_path(config.runs), weights.state, weights.states)]
    store = examined.session.store.place
    if isinstance(store, LocalPlace):
        least = weights.checkpoints + weights.merged
        writes.append(_Writes(config.store, store.root, least, least + plan.bytes))
    disks: dict[int, list[_Writes]] = {}
    for each in writes:
        disks.setdefault(os.stat(nearest(each.folder)).st_dev, []).append(each)
    said = []
    for together in disks.values():
        least, most = sum(each.least for each in together), sum(each.most for each in together)
        free = shutil.disk_usage(nearest(together[0].folder)).free
        names = " and ".join(each.name for each in together)
        text = f"up to {size(most)} go to {names}, where {size(free)} are free"
        way_out = "free some, or name other folders (store, runs)"
        if least > free:
            raise ConfigError(
                f"{size(least)} of weights go to {names}, and {size(free)} are free there: "
                f"{way_out}, or lower rounds or train.keep_states"
            )
        if most > free:
            examined.notes.say(f"{text}: {way_out}")
        said.append(text)
    return "; ".join(said)


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
