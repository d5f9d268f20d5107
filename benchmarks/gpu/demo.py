"""The demo's pair through the real pipeline: launches of small kernels bound it."""

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

from .measure import Row, Setting, Timed, left_out, row

NEEDED = ("pydantic", "duckdb", "polars", "math_verify", "httpx2")
ON_A_CPU = 39.0  # seconds for ten rounds of four runs, on two cores
ROUNDS = 10


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the seconds of `tip demo`, or of a round of it with few problems."""
    rounds = setting.pick(ROUNDS, 1)
    work, at = "tip demo", f"{setting.pick(4, 1)} runs of {rounds} rounds"
    if (missing := left_out(work, *NEEDED, at=at)) is not None:
        yield missing
        return
    from tip.pipeline.demo import show

    if setting.small:
        show.PROBLEMS, show.CHOICES = 20, show.CHOICES[:1]
    with TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # its progress
        start = time.perf_counter()
        show.show(Path(folder), rounds)
        taken = time.perf_counter() - start
    yield row(
        work, Timed((taken,)), f"two CPU cores, {ON_A_CPU:g} s", ON_A_CPU, at=at, before="85 s"
    )
