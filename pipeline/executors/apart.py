"""A process of its own: its peak memory is its own, and nothing it holds outlives it."""

import multiprocessing
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from ...stages.engines.protocols import Tick
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Work
from . import worker
from .executor import Results
from .own_process import named


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
        with self._reporter.bar(title, total, unit) as tick, self._listening(tick), named("works"):
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
