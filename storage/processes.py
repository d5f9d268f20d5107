"""Processes by name: enough to tell, on the same machine or by hearsay, that one has ended."""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

_told: list[Any] = []  # processes that others have seen to end

_BORN = 19  # place of the start time among what follows a process's name in /proc/PID/stat


@cache
def _machine() -> dict[str, str]:
    """Return what number a process has a meaning in: this boot, this space of process numbers."""
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "space": os.readlink("/proc/self/ns/pid"),
        }
    except OSError:  # not Linux
        return {}


def this_process() -> dict[str, Any]:
    """Return who this process is, as JSON has it; `has_ended` understands it."""
    pid = os.getpid()
    return {**_machine(), "host": socket.gethostname(), "pid": pid, "born": _born(pid)}


def note_ended(process: Any) -> None:
    """Keep that a process of any machine has ended, as whoever started it there was told."""
    if process not in _told:
        _told.append(process)


def has_ended(process: Any) -> bool:
    """Tell whether a process is known to have ended; False where nobody here can know.

    process: what `this_process` gave it, or anything that a stranger wrote instead.
    """
    if not isinstance(process, dict) or not isinstance(process.get("pid"), int):
        return False
    if process in _told:
        return True
    machine = _machine()
    if not machine or any(process.get(name) != value for name, value in machine.items()):
        return False
    return _born(process["pid"]) != process.get("born")


def _born(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[_BORN - 1])
