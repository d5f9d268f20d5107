"""A process of its own: its peak memory is its own, and nothing it holds outlives it."""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ...storage.errors import TipError
from ..config.run import RunConfig
from ..progress import Reporter, Tick
from ..works.work import Work
from . import worker
from .executor import Results

Given = TypeVar("Given")
Got = TypeVar("Got")


class Apart:
    """Runs works in one process beside this one, which opens the store by its name.

    The process is started with the first work, keeps its holder from work to work, and ends with
    `close`. What it says and ticks reaches the reporter here.
    """

    def __init__(self, config: RunConfig, reporter: Reporter) -> None:
        self._config, self._reporter = config, reporter
        self._pool: ProcessPoolExecutor | None = None
        self._words: Any = None

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Run works in order, in the other process."""
        total, unit = sum(work.size for work in works), works[0].unit if works else ""
        pool = self._started()
        with self._reporter.bar(title, total, unit) as tick, self._listening(tick), _named("works"):
            return [pool.submit(worker.run, work).result() for work in works]

    def close(self) -> None:
        """End the process."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                with suppress(BrokenProcessPool):  # its works have told so
                    pool.submit(worker.end).result()
            finally:
                pool.shutdown()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a forked CUDA does not work
            self._words = context.Queue()
            begin = (self._config.model_dump_json(), self._words)
            self._pool = ProcessPoolExecutor(
                1, mp_context=context, initializer=worker.begin, initargs=begin
            )
        return self._pool

    @contextmanager
    def _listening(self, tick: Tick) -> Iterator[None]:
        """Pass on what the process ticks (numbers) and says (texts) while the block runs."""
        over = threading.Event()

        def listen() -> None:
            while True:
                try:
                    word = self._words.get(timeout=0.1)
                except queue.Empty:
                    if over.is_set():
                        return
                    continue
                tick(word) if isinstance(word, int) else self._reporter.say(word)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def in_own_process(work: Callable[[Given], Got], given: Given, name: str) -> Got:
    """Return what a function of a module gives in a process that ends with it.

    It takes 3 s to start, mostly for torch. name: what people call the work.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process, _named(name):
        return process.submit(work, given).result()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say whose process it was that was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise TipError(
            f"the process of {name} was killed, maybe for its memory: with fewer at a time "
            "(--workers) each has more; the same command continues"
        ) from error
