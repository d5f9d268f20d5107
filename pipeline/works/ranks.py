"""Ranks: the processes of one training, started together, heard, and ended together.

They find each other through a file, so that nothing listens on a port that another run may want.
What a rank prints is in its log. The first that fails ends all, with its own error.
"""

import multiprocessing
import os
import pickle
import queue
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ...stages.engines.protocols import Tick
from ...stages.stopping import Terminated, end_with_parent, interrupts_blocked, obey_sigterm
from ...storage.errors import StoreError, TipError

_GRACE = 30.0  # seconds in which ranks that are told to end write a snapshot
_OTHERS = 2.0  # seconds in which a rank that pulled the others down may tell of itself

Rank = Callable[[Any, int, int, str, Tick, Callable[[str], None]], None]
"""What a rank runs: (given, rank, size, address, tick, say). It ticks and says for all as rank 0
alone."""


def run_ranks(
    function: Rank, given: Any, size: int, logs: Path, tick: Tick, say: Callable[[str], None]
) -> None:
    """Run a function of a module in `size` processes, to the end of all.

    given: picklable. logs: folder of what each prints. Raises the error of the rank that failed
    first, as a `TipError` that names its log. Interrupted, it tells the ranks to end.
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{logs}: the ranks' logs cannot be written ({error.strerror})") from error
    context = multiprocessing.get_context("spawn")  # a forked CUDA does not work
    meeting = Path(tempfile.mkdtemp(prefix="tip-ranks-"))
    words, processes = context.Queue(), []
    try:
        with interrupts_blocked():
            for rank in range(size):
                arguments = (function, given, rank, size, f"file://{meeting}/store", logs, words)
                processes.append(
                    context.Process(target=_rank, args=arguments, name=f"rank{rank}", daemon=True)
                )
                processes[-1].start()
        _wait(processes, words, logs, tick, say)
    finally:
        _end(processes)
        shutil.rmtree(meeting, ignore_errors=True)


def log_of(logs: Path, rank: int) -> Path:
    """Return the log of a rank."""
    return logs / f"rank{rank}.log"


def _wait(
    processes: list[BaseProcess],
    words: Any,
    logs: Path,
    tick: Tick,
    say: Callable[[str], None],
) -> None:
    errors: dict[int, BaseException] = {}
    until: float | None = None
    while True:
        over = all(not p.is_alive() for p in processes)
        try:
            word = words.get(timeout=0.0 if over else 0.1)
        except queue.Empty:
            word = None
        if isinstance(word, int):
            tick(word)
        elif isinstance(word, str):
            say(word)
        elif word is not None:
            errors[word[0]] = word[1]
        failed = [rank for rank, p in enumerate(processes) if p.exitcode not in (None, 0)]
        if failed and until is None:
            until = time.monotonic() + _OTHERS
        if word is None and (over or (until is not None and time.monotonic() > until)):
            break
    if failed:
        raise _own_error(processes, failed, errors, logs)


def _own_error(
    processes: list[BaseProcess], failed: list[int], errors: dict[int, BaseException], logs: Path
) -> BaseException:
    """Return the error of the rank that pulled the others down.

    A killed one has no words, one that can tell what is wrong comes next; the others merely lost
    it in the middle of a collective.
    """

    def order(rank: int) -> tuple[bool, bool, int]:
        killed = (processes[rank].exitcode or 0) < 0
        return not killed, not isinstance(errors.get(rank), TipError), rank

    rank = min(failed, key=order)
    code, error, log = processes[rank].exitcode or 0, errors.get(rank), log_of(logs, rank)
    where = f"rank {rank} of {len(processes)} (log: {log})"
    if code < 0:
        name = signal.Signals(-code).name
        return TipError(
            f"{where} of the training was killed by {name}, maybe for its memory; the same command "
            "continues from the last snapshot"
        )
    if isinstance(error, TipError):
        return type(error)(f"{error} [{where}]")
    said = f"{type(error).__name__}: {error}" if error is not None else f"exit code {code}"
    return TipError(
        f"{where} of the training failed: {' '.join(said.split())}; the same command continues "
        "from the last snapshot"
    )


def _end(processes: list[BaseProcess]) -> None:
    """Tell what still runs to end, and see to it."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    last = time.monotonic() + _GRACE
    for process in processes:
        process.join(max(0.0, last - time.monotonic()))
        if process.is_alive():  # it waits for a rank that is gone
            process.kill()
            process.join()


def _rank(
    function: Rank, given: Any, rank: int, size: int, address: str, logs: Path, words: Any
) -> None:
    """Run in the process of a rank."""
    obey_sigterm()
    end_with_parent()
    log = os.open(log_of(logs, rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    quiet = rank > 0  # each step is everybody's, and told once

    def tell(word: Any) -> None:
        if not quiet:
            words.put(word)

    try:
        function(given, rank, size, address, tell, tell)
    except Terminated:
        raise SystemExit(128 + signal.SIGTERM) from None
    except Exception as error:
        traceback.print_exc()
        words.put((rank, picklable(error)))
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def picklable(error: Exception) -> Exception:
    """Return an error that another process can be sent: itself, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a library's own exceptions may raise there
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
