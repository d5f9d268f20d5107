"""What the parts of `make bench-gpu` share: where they run, how they time, and what a row says."""

import functools
import gc
import importlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from apart import rise_mb as rise_of_process
from timing import all_turns
from tip.stages.models.compiled import cannot_compile, compiled_layers
from tip.stages.models.language_model import LanguageModel

MB = 1 << 20
Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """Where a part runs. small: on a CPU, with shapes that show that it works and no more."""

    device: torch.device
    small: bool

    def pick(self, usual: Value, small: Value) -> Value:
        """Return what is usual, or what stands for it where all is small."""
        return small if self.small else usual

    @property
    def turns(self) -> int:
        """Return how often a work is timed."""
        return self.pick(5, 1)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Timed:
    """The seconds of a work's turns."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the turns."""
        return statistics.median(self.seconds)

    def rate(self, amount: float) -> "Timed":
        """Return what is done in a second where each turn does so much."""
        return Timed(tuple(sorted(amount / s for s in self.seconds)))


def timed(works: Mapping[str, Callable[[], object]], setting: Setting) -> dict[str, Timed]:
    """Return the seconds of works that take turns, after one turn each that is not counted."""
    found = all_turns(works, setting.turns, setting.wait)
    return {name: Timed(tuple(seconds)) for name, seconds in found.items()}


def rise_mb(work: Callable[[], object], setting: Setting) -> float:
    """Return by how many MB memory rises while a work runs, above what is held before."""
    if setting.device.type != "cuda":
        return rise_of_process(work)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / MB


@dataclass(frozen=True)
class Row:
    """One figure, and what it is held against.

    work: names it, whatever the shapes. at: the shapes. value: the median of its turns, low and
    high their range. ratio: of it to the baseline, as `baseline` says. wanted: of the ratio, or of
    the value where its unit is named ("<= 4 s"). rise_mb: memory beyond what is held anyhow;
    most_mb: what is wanted of it. before: what GPU measurements before this code gave.
    """

    work: str
    at: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "s"
    baseline: str = ""
    ratio: float | None = None
    wanted: str = ""
    rise_mb: float | None = None
    most_mb: float | None = None
    before: str = ""
    note: str = ""
    failed: bool = False

    @property
    def met(self) -> bool | None:
        """Tell whether all that is wanted is so; None where nothing is, or nothing was measured."""
        found = []
        if self.wanted and self.value is not None:
            sign, limit, *unit = self.wanted.split()
            value = self.value if unit == [self.unit] else self.ratio
            assert value is not None  # what has no ratio has a unit to be judged by
            found.append(value <= float(limit) if sign == "<=" else value >= float(limit))
        if self.most_mb is not None and self.rise_mb is not None:
            found.append(self.rise_mb <= self.most_mb)
        return all(found) if found else None


def row(work: str, taken: Timed, baseline: str, against: float, **more: Any) -> Row:
    """Return the row of a work that was timed. against: what its median is divided by."""
    low, high = min(taken.seconds), max(taken.seconds)
    return Row(
        work=work,
        value=taken.median,
        low=low,
        high=high,
        baseline=baseline,
        ratio=taken.median / against,
        **more,
    )


def left_out(work: str, *packages: str, **more: Any) -> Row | None:
    """Return the row of a work that needs packages which are not here; None where they are."""
    for name in packages:
        try:
            there = not hasattr(importlib.import_module(name), "STANDS_IN")
        except ImportError:
            there = False
        if not there:
            return Row(work, note=f"left out: the package {name} is not installed", **more)
    return None


def products(
    rows: int, width: int, vocabulary: int, device: torch.device, most: int = 8192
) -> Callable[[], None]:
    """Return the three products in bfloat16 that head and loss of some rows cannot do without.

    They go by `most` rows at a time, of numbers that lie ready: more would not be faster.
    """
    make = functools.partial(torch.randn, device=device, dtype=torch.bfloat16)
    states, weight = make(min(rows, most), width), make(vocabulary, width)
    logits = states @ weight.T

    def work() -> None:
        for start in range(0, rows, most):
            count = min(most, rows - start)
            torch.mm(states[:count], weight.T, out=logits[:count])
            logits[:count] @ weight
            logits[:count].T @ states[:count]

    return work


def bf16_rate(setting: Setting) -> float:
    """Return the operations a second of a large product in bfloat16, here and now."""
    size = setting.pick(8192, 256)
    left, right = (
        torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2)
    )
    return 2 * size**3 / timed({"product": lambda: left @ right}, setting)["product"].median


@contextmanager
def compiling(student: LanguageModel, setting: Setting) -> Iterator[Callable[[], float]]:
    """Compile a student's layers inside the block as training does; gives the seconds it took.

    Where all is small they are traced and no code is made of them, which takes a CPU minutes.
    """
    if not setting.small:
        reason = cannot_compile(setting.device)
        if reason is not None:
            raise RuntimeError(reason)
        with compiled_layers(student) as seconds:
            yield seconds
        return
    usual = torch.nn.Module.compile
    torch.nn.Module.compile = functools.partialmethod(usual, backend="eager")  # type: ignore[assignment]
    try:
        with compiled_layers(student) as seconds:
            yield seconds
    finally:
        torch.nn.Module.compile = usual
