"""Work in a process of its own, so that the memory it reports is its own. Linux: reads /proc."""

import ctypes
import gc
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")

# A fork of the benchmark would start with its memory; a fork of a clean server starts with the
# modules that the server has imported.
_CONTEXT = get_context("forkserver")


def preload(modules: Sequence[str]) -> None:
    """Import slow modules once for all processes. To be called before the first one."""
    _CONTEXT.set_forkserver_preload(list(modules))


def apart(work: Callable[..., Answer], *arguments: Any) -> Answer:
    """Return what a function of a module answers in a fresh process; what it prints is lost."""
    with ProcessPoolExecutor(1, mp_context=_CONTEXT, initializer=_quiet) as pool:
        return pool.submit(work, *arguments).result()


def _quiet() -> None:
    # DuckDB takes a process that runs no script for a person at a terminal, and draws progress.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def peak_mb() -> float:
    """Return the largest memory that this process has held.

    ru_maxrss would not do: it survives fork and exec, so a child starts with its parent's.
    """
    return _status("VmHWM")


def rise_mb(work: Callable[[], object]) -> float:
    """Return by how much memory rises while `work` runs, above what is held before.

    Free memory of the heap is given back first: the work would find it at no cost.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _status("VmRSS")
    work()
    return peak_mb() - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
