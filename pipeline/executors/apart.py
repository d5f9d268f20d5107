"""A process of its own: its peak memory is its own, and nothing it holds outlives it."""

import multiprocessing
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from ...stages.engines.protocols import Tick
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Work
from . import worker
from .executor import Results
from .own_process import OwnProcess, named


class Apart:
    """Runs works in one process beside this one, which opens the store by its name.

    The process is started with the first work, keeps its holder from work to work, and ends with
    `close`. What it says and ticks reaches the reporter here.
    """

    def __init__(self, config: RunConfig, reporter: Reporter) -> None:
        self._config, self._reporter = config, reporter
        self._process: OwnProcess | None = None
        self._words: Any = None

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Run works in order, in the other process."""
        total, unit = sum(work.size for work in works), works[0].unit if works else ""
        process = self._started()
        with self._reporter.bar(title, total, unit) as tick, self._listening(tick), named("works"):
            return [process.run(worker.run, work) for work in works]

    def settle(self) -> None:
        """Wait for what the other process is writing."""
        if self._process is not None:
            with named("works"):
                self._process.run(worker.settle, None)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            try:
                with suppress(BrokenProcessPool):  # its works have told so
                    process.run(worker.end, None)
            finally:
                process.close()

    def _started(self) -> OwnProcess:
        if self._process is None:
            self._words = multiprocessing.get_context("spawn").Queue()
            self._process = OwnProcess(worker.begin, (self._config.model_dump_json(), self._words))
        return self._process

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
