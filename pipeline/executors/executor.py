"""The one protocol by which works are run, wherever that is."""

from collections.abc import Sequence
from typing import Protocol

from ..works.work import Made, Work

Results = list[tuple[Made, ...]]


class Executor(Protocol):
    """Runs works. No executor knows a stage, makes a key or commits: works do."""

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Return what each work gives, in order. title: of the bar that people see meanwhile."""
        ...

    def settle(self) -> None:
        """Wait for what works have left to be written. Raises `StoreError` where that failed."""
        ...

    def close(self) -> None:
        """Let go of memory and processes; it may be used again afterwards."""
        ...
