"""The training states that a process leaves: a thread writes them while the process goes on.

What is written are the very tensors that were trained, or copies on the host of those on a GPU;
nothing may change them afterwards. They are let go of as soon as they are on the disk.
"""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch import Tensor

from ...storage.errors import StoreError
from ...storage.ledger import Ledger
from .state import write_state


class States:
    """At most one state at a time is being written; whoever leaves the next one waits for it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._seals = ledger, set[str]()
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[str] | None = None

    @property
    def seals(self) -> Collection[str]:
        """Return the seals of the states that this process has written whole."""
        return self._seals

    def leave(self, path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Begin to write what `state_tensors` gives, on the host, and `about`, below a folder."""
        self.settle()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="tip-state")
        self._writing = self._pool.submit(_write, path, tensors, about)

    def check(self) -> None:
        """Raise `StoreError` where a write has failed, which is then told; wait for none."""
        if self._writing is not None and self._writing.done():
            self.settle()

    def settle(self) -> None:
        """Wait until all is written. Raises `StoreError` as `write_state` does, once."""
        if self._writing is None:
            return
        with self._ledger.of("waiting"):
            wait([self._writing])  # where that is interrupted, the next one waits
        ended, self._writing = self._writing, None
        self._seals.add(ended.result())

    def close(self) -> StoreError | None:
        """Wait, and return what went wrong, which nobody has been told; may be called again."""
        failed: StoreError | None = None
        try:
            self.settle()
        except StoreError as error:
            failed = error
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None
        return failed


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    try:
        return write_state(path, tensors, about)
    finally:
        tensors.clear()  # an error that is told later would hold them
