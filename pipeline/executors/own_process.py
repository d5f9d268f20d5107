"""A function in a process of its own, which ends with it: its memory and its crash are its own.

Told to end (SIGTERM), such a process ends as a run in this process does: a training leaves a
snapshot. Whoever started it tells it; Ctrl-C reaches it through them alone. It tells itself where
they are gone: it would play on for nobody, and hold its run against the next start.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from ...stages.stopping import end_with_parent, interrupts_blocked, obey_sigterm
from ...storage.errors import TipError

Given = TypeVar("Given")
Got = TypeVar("Got")


class OwnProcess:
    """A process that runs functions of modules, one at a time. It takes 3 s to start, for torch.

    begin: called with `given` in that process before anything else.
    """

    def __init__(
        self, begin: Callable[..., None] | None = None, given: tuple[Any, ...] = ()
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a forked CUDA does not work
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(begin, given)
        )
        resource_tracker.ensure_running()  # its start unblocks signals
        with interrupts_blocked():
            self._pid = self._pool.submit(os.getpid)
        self._told = False

    def run(self, function: Callable[[Given], Got], given: Given) -> Got:
        """Return what a function gives there; interrupted meanwhile, tell the process to end."""
        try:
            return self._pool.submit(_obeying, function, given).result()
        except KeyboardInterrupt:
            self.tell_to_end()
            raise

    def tell_to_end(self) -> None:
        """Tell the process to end, once: what it runs raises `Terminated`, or it dies idle."""
        if not self._told:
            self._told = True
            self._pid.add_done_callback(_terminate)

    def close(self) -> None:
        """Let the process end, and wait for that."""
        self._pool.shutdown()


_running: set[OwnProcess] = set()  # what `in_own_process` waits for, in whichever thread


def in_own_process(work: Callable[[Given], Got], given: Given, name: str) -> Got:
    """Return what a function of a module gives in a process that ends with it.

    name: what people call the work.
    """
    process = OwnProcess()
    _running.add(process)
    try:
        with named(name):
            return process.run(work, given)
    finally:
        _running.discard(process)
        process.close()


def tell_all_to_end() -> None:
    """Tell the processes of all functions that run now to end; they are not waited for."""
    for process in list(_running):
        process.tell_to_end()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say whose process it was that was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise TipError(
            f"the process of {name} was killed, maybe for its memory: with fewer at a time "
            "(--workers) each has more; the same command continues"
        ) from error


def _terminate(pid: "Future[int]") -> None:
    if pid.exception() is None:  # else there is no process any more
        with suppress(ProcessLookupError):
            os.kill(pid.result(), signal.SIGTERM)


def _begin(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    end_with_parent()
    if begin is not None:
        begin(*given)


def _obeying(function: Callable[[Given], Got], given: Given) -> Got:
    """Run a function that SIGTERM ends as `Terminated`; outside of it, the process dies at once."""
    obey_sigterm()
    try:
        return function(given)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os.kill(os.getpid(), signal.SIGTERM)  # nobody is left to take the answer
