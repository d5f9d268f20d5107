"""Whether what a run needs of memory and of disks is there.

What it needs for certain (weights) must be there; an estimate that is beyond is a note.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ...storage.errors import ConfigError
from ...storage.files import nearest, user_path
from ...storage.store.places import LocalPlace
from ..plan.disk import WeightsOnDisk
from ..show.cells import size
from ..show.plan import or_else
from .examined import Examined, NotLookedError


class _Writes(NamedTuple):
    """Bytes that go to a folder: for certain, and at most."""

    name: str
    folder: Path
    least: int
    most: int


def memory(examined: Examined) -> str:
    """Compare what each stage needs of the device with what there is."""
    plan = examined.plan
    target = plan.target
    known = [need for need in plan.memory if need.least is not None and need.bytes is not None]
    if not known:
        raise NotLookedError("how large the models are shows when their weights are here")
    has = f"{size(target.usable)} of {size(target.total)} may be had on {target.name}"
    for need in known:
        way_out = or_else(plan.ways.get(need.stage, []))
        if (need.least or 0) > target.total:
            raise ConfigError(
                f"{need.stage} takes {size(need.least)} at the very least, and {target.name} has "
                f"{size(target.total)}: {way_out}"
            )
        if need.stage in plan.ways:
            examined.notes.say(
                f"{need.stage} takes about {size(need.bytes)}, and {has}: free some, or {way_out}"
            )
    most = max(known, key=lambda need: need.bytes or 0)
    return f"{most.stage} takes most, about {size(most.bytes)}; {has}"


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
