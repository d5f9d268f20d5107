"""The end of a process, or a pause, at one of its calls that change the file system.

Of the main thread, and, counted apart, of the one that writes states: what the claims' threads
write comes by the clock, and no count would be the same twice. What native code does inside one
call is passed over, but for a half-written file.
"""

import builtins
import fcntl
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

Act = Callable[[], None]

_OF_OS = (
    *("replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir"),
    *("fsync", "fdatasync", "truncate", "ftruncate", "pwrite", "sendfile", "utime", "chmod"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_write = os.write  # what is written here is not counted


@dataclass(frozen=True)
class Point:
    """A moment of a process: before, amid or after the call of a number, counted from 1.

    word: `call` for those of the main thread, `beside` for those of the one that writes states.
    """

    number: int
    moment: str
    word: str = "call"


@dataclass(frozen=True)
class Order:
    """A command in a process of its own, and what befalls it.

    home: where it runs; its files for a moment and its memories lie there as well. log: what it
    does is written there, a line each. act: "kill", "stop" or "jump". jump: of its clock, seconds.
    silence: after which it takes claims over.
    """

    arguments: tuple[str, ...]
    home: Path
    log: Path
    point: Point | None = None
    act: str = "kill"
    jump: float = 0.0
    silence: float | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def at(self, point: Point, act: str = "kill", jump: float = 0.0) -> "Order":
        """Return the same command with something that befalls it."""
        return replace(self, point=point, act=act, jump=jump)


def surroundings(home: Path) -> dict[str, str]:
    """Return the environment of a process whose files all lie in one folder."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return {"TMPDIR": str(home / "tmp"), "XDG_CACHE_HOME": str(home / "cache")}


def enter(order: Order) -> None:
    """Be the process of an order."""
    os.environ.update(surroundings(order.home) | order.environment)
    tempfile.tempdir = None
    os.chdir(order.home)
    shown = os.open(f"{order.log}.shown", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(shown, 1)
    os.dup2(shown, 2)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(line: str) -> None:
        _write(log, f"{line}\n".encode())

    from tip.cli import main
    from tip.stages.select import rulebook

    rulebook.parse_rule = cache(rulebook.parse_rule)  # a third of such a run's time
    keep_ledger(tell)
    if order.silence is not None:
        be_impatient(order.silence)
    Calls(order.point, ACTS[order.act](order), tell).wrap()
    sys.argv = ["tip", *order.arguments]
    main()


def _kill(_: Order) -> Act:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: Order) -> Act:
    return lambda: os.kill(os.getpid(), signal.SIGSTOP)


def _jump(order: Order) -> Act:
    real, real_ns = time.time, time.time_ns

    def jump() -> None:
        time.time = lambda: real() + order.jump
        time.time_ns = lambda: real_ns() + int(order.jump * 1e9)

    return jump


ACTS: dict[str, Callable[[Order], Act]] = {"kill": _kill, "stop": _stop, "jump": _jump}


def keep_ledger(tell: Callable[[str], None]) -> None:
    """Tell of each artifact that is begun to be made, and of each step of training."""
    from tip.stages.train import train
    from tip.storage.store.store import Store

    make, step = Store._make, train._step

    def making(store: Store, kind: str, key: str, *rest: Any) -> Any:
        tell(f"make {kind}/{key}")
        return make(store, kind, key, *rest)

    def stepping(*arguments: Any) -> None:
        step(*arguments)
        tell("step")

    Store._make, train._step = making, stepping  # type: ignore[method-assign]


def be_impatient(seconds: float) -> None:
    """Let stores of this process take silent claims over soon."""
    from tip.storage.store import store

    patience = store.Patience
    store.Patience = lambda: patience(seconds / 10, seconds)  # type: ignore[misc]


class Calls:
    """All calls that change the file system, told and counted; at a point of them one acts."""

    def __init__(self, point: Point | None, act: Act, tell: Callable[[str], None]) -> None:
        self._point, self._act, self._tell = point, act, tell
        self._count = {"call": 0, "beside": 0}

    def wrap(self) -> None:
        """Put a count around the functions of this process."""
        import pyarrow.parquet as pq
        import safetensors.torch

        for name in _OF_OS:
            setattr(os, name, self.counted(name, getattr(os, name)))
        os.open = self._if_writing(os.open)
        fcntl.flock = self.counted("flock", fcntl.flock)
        io.open = builtins.open = self._opening(io.open)
        for name in ("__init__", "write_table", "close"):
            called = self.counted(f"parquet {name}", getattr(pq.ParquetWriter, name))
            setattr(pq.ParquetWriter, name, called)
        save = safetensors.torch.serialize_file
        safetensors.torch.serialize_file = self.counted("safetensors", save, _half_a_file)

    def counted(
        self, name: str, function: Callable[..., Any], amid: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Return a function as it is counted. amid: does half of what it does."""

        def call(*arguments: Any, **named: Any) -> Any:
            thread = threading.current_thread()
            word = "beside" if thread.name.startswith("tip-state") else "call"
            if word == "call" and thread is not threading.main_thread():
                return function(*arguments, **named)
            self._count[word] += 1
            number = self._count[word]
            self._tell(f"{word} {name}{' half' if amid else ''}")
            self._reach(number, "before", word)
            if amid is not None and self._point == Point(number, "amid", word):
                amid(*arguments, **named)
                self._act()
            try:
                return function(*arguments, **named)
            finally:  # a folder may be there already
                self._reach(number, "after", word)

        return call

    def _reach(self, number: int, moment: str, word: str) -> None:
        if self._point == Point(number, moment, word):
            self._act()

    def _if_writing(self, function: Callable[..., int]) -> Callable[..., int]:
        counted = self.counted("open", function)

        def call(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            return (counted if flags & _WRITING else function)(path, flags, *rest, **named)

        return call

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        counted = self.counted("open", function)

        def call(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return function(file, mode, *rest, **named)
            return _File(self, counted(file, mode, *rest, **named))

        return call


class _File:
    """A file that was opened for writing."""

    def __init__(self, calls: Calls, file: Any) -> None:
        self._file = file

        def half(data: Any) -> None:
            file.write(data[: len(data) // 2])
            file.flush()

        self.write = calls.counted("write", file.write, half)
        for name in ("flush", "truncate", "close"):
            setattr(self, name, calls.counted(name, getattr(file, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()  # type: ignore[attr-defined]


def _half_a_file(_: dict[str, Any], path: Any, **__: Any) -> None:
    """Leave what safetensors leaves beside a file when it is killed."""
    Path(path).with_name(".tmpAbC123").write_bytes(bytes(1000))
