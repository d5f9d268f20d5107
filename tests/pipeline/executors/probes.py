"""Works that make nothing, for actors: a module of its own, which they import."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tip.pipeline.progress import Tick
from tip.stages.holder import Holder


@dataclass(frozen=True)
class Probe:
    """A work that makes nothing; what it does is said by its parts, and it gives its size."""

    size: int = 1
    log: Path | None = None
    dies: Path | None = None
    """Ends its process unless this is there, which it makes before; never where it is no path."""
    always: bool = False
    raises: Callable[[], Exception] | None = None
    lines: tuple[str, ...] = ()
    unit = "shards"

    def found(self, _: Any) -> None:
        return None

    def ensure(self, holder: Holder, _: Any, tick: Tick) -> Any:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{self.size}\n")
        for line in self.lines:
            holder.say(line)
        tick(self.size)
        if self.raises is not None:
            raise self.raises()
        if self.always or (self.dies is not None and not self.dies.exists()):
            if self.dies is not None:
                self.dies.touch()
            time.sleep(0.6)  # until what was ticked is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.size,)

    def spread(self, _: Any, most: int) -> tuple["Probe", ...]:
        return (self,)


class Unsendable(Exception):
    """An error of which no copy can be made from what it holds."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@dataclass(frozen=True)
class Loaded(Probe):
    """A work that gives how many models its process holds, with or without loading one."""

    weights: Any = None

    def ensure(self, holder: Holder, *_: Any) -> Any:
        if self.weights is not None:
            holder.model(self.weights)
        return (len(holder._models),)


class AtHome(Probe):
    """A work that belongs to the run's own process."""

    def ensure(self, *_: Any) -> Any:
        return (os.getpid(),)

    def spread(self, _: Any, most: int) -> tuple[Probe, ...]:
        return ()
