"""The other side of `Apart`: a process that opens a store by name and runs works, one by one."""

from typing import Any

from ...storage.store.store import Store
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Made, Work
from .here import Here

_running: dict[str, Any] = {}  # this process's own; a pool gives no better place


class Line(Reporter):
    """Sends what is said to the process that asked."""

    def __init__(self, words: Any) -> None:
        super().__init__(quiet=True)
        self._words = words

    def say(self, text: str) -> None:
        """Send a line."""
        self._words.put(text)


def begin(config: str, words: Any) -> None:
    """Keep a config (JSON), and the queue of ticks and lines to the other side.

    What may fail waits for the first work: of an error here the pool tells only that it broke.
    """
    _running.update(config=config, words=words)


def run(work: Work) -> tuple[Made, ...]:
    """Return what a work gives."""
    words = _running["words"]
    if "here" not in _running:
        settings = RunConfig.model_validate_json(_running["config"])
        _running["here"] = Here(settings, Store(settings.store), Line(words))
    return _running["here"].run(work, words.put)


def settle(_: None) -> None:
    """Wait for what is being written."""
    if "here" in _running:
        _running["here"].settle()


def end(_: None) -> None:
    """Let go of models and engines before the process ends."""
    if "here" in _running:
        _running["here"].close()
