"""The end of a process in the middle of its work, without a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tip.pipeline.progress import Reporter, Tick


class Killed(BaseException):
    """Stands for a process that ends: no handler of the code under test may stop it."""


def killed(*_: Any) -> None:
    raise Killed


class KillingReporter(Reporter):
    """Ends the process in the middle of a stage's progress."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__(quiet=True)
        self.stage, self.left = stage, after

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        def tick(count: int) -> None:
            if self.stage in title:
                self.left -= count
                if self.left < 0:
                    raise Killed(title)

        yield tick
