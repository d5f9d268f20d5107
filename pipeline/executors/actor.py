"""The other side of `OnRay`: an actor that opens the store by name and runs works, one by one."""

import os
import queue
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...storage.errors import ConfigError, ModelError
from ...storage.files import user_path
from ...storage.processes import note_ended, this_process
from ...storage.store.seen import refuse_another
from ...storage.store.store import Store
from ..config.run import RunConfig
from ..works.ranks import picklable
from ..works.work import Made, Work
from .here import Here
from .worker import Line

_GLANCE = 0.25  # seconds that are told of together

Word = int | str
"""What a work tells while it runs: what it ticks, and lines for a person."""


@dataclass(frozen=True)
class Terms:
    """What an actor is started with.

    config: of the run, as JSON. folder: where the run was started; relative paths begin there.
    models: folders that the run reads. mark: left in the store. version: of tip there.
    """

    config: str
    folder: str
    models: tuple[str, ...]
    mark: str
    version: str = __version__


@dataclass(frozen=True)
class Greeting:
    """Who an actor is. process: as `this_process` names it. node: Ray's id of its host."""

    host: str
    node: str
    process: dict[str, Any]


class Actor:
    """Runs works in a process of a cluster, with one holder."""

    def __init__(self) -> None:
        self._words: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(1)  # one for all works: torch keeps things by thread
        self._here: Here | None = None

    def begin(self, terms: Terms) -> Greeting:
        """Show that this host has what the run needs, and open the store. Raises a `TipError`."""
        import ray  # whoever runs this has it

        host = socket.gethostname()
        if terms.version != __version__:
            raise ConfigError(
                f"tip {__version__} is installed on {host}, but the run is played by "
                f"{terms.version}: install the same on every host of the cluster"
            )
        if Path(terms.folder).is_dir():
            os.chdir(terms.folder)
        settings = RunConfig.model_validate_json(terms.config)
        refuse_another(settings.store, terms.mark, host)
        for model in terms.models:
            if not user_path(model).is_dir():
                raise ModelError(
                    f"{model}: no such folder on {host}: models must lie on a disk that all hosts "
                    "of the cluster share, in the same place"
                )
        self._here = Here(settings, Store(settings.store), Line(self._words))
        node = ray.get_runtime_context().get_node_id()
        return Greeting(host, node, this_process())

    def run(
        self, work: Work, ended: Sequence[dict[str, Any]]
    ) -> Iterator[list[Word] | tuple[Made, ...]]:
        """Give lists of what a work tells while it runs, then what it made.

        ended: processes that are known to have ended, whose claims hold nobody up.
        """
        for process in ended:
            note_ended(process)
        assert self._here is not None  # nobody is given a work before it has greeted
        running = self._thread.submit(self._here.run, work, self._words.put)
        running.add_done_callback(lambda _: self._words.put(None))
        over = False
        while not over:
            told, over = self._told()
            if told:
                yield told
        error = running.exception()
        if error is not None:
            raise picklable(error) if isinstance(error, Exception) else error
        yield running.result()

    def release(self) -> None:
        """Let go of models and engines: somebody else needs the memory."""
        if self._here is not None:
            self._thread.submit(self._here.close).result()

    def _told(self) -> tuple[list[Word], bool]:
        """Return what is told within a glance, and whether the work is over."""
        told: list[Word] = []
        until = time.monotonic() + _GLANCE
        while (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                word = self._words.get(timeout=left)
                if word is None:
                    return told, True
                told.append(word)
        return told, False
