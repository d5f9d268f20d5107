"""Strong scaling of training: the same steps by one process and by two, of one thread each.

    python benchmarks/scaling.py MODELS [--problems FILE.jsonl] [--out bench]

SmolLM2 with half of its layers, float32 on the CPU, 64 rollouts of 64 new tokens, steps of 32
rollouts in micro-batches of 1,024 tokens, four epochs. What is timed is the time from a step's end
to the next: starting the processes, which takes seconds once a training, is told beside. The
baseline is one process; half of its time is what two could reach. On a machine of two cores that
do nothing else.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from apart import apart, preload
from arguments import models_folder
from plan import one_round, play_before
from round import word_problems
from timing import line, save
from tip.pipeline.config.toml import make_config
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds.single import train_round
from tip.pipeline.session import open_session


class Clock(Reporter):
    """Notes when each step of a training ends."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.ends: list[float] = []

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        """Give what notes the time."""

        def tick(count: int) -> None:
            self.ends.extend([time.perf_counter()] * count)

        yield tick


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--problems", type=Path, help="JSONL with a column `problem`")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    preload(["tip.pipeline.rounds.single", "tip.stages.train.train"])
    steps, starts = {}, {}
    with TemporaryDirectory() as folder:
        source = options.problems or word_problems(Path(folder))
        for processes in (1, 2):
            train = {
                "lr": processes * 1e-5,  # a rate of its own: `processes` is in no key
                "rollouts_per_step": 32,
                "epochs": 4,
                "batch_tokens": 1024,
                "processes": processes,
            }
            config = one_round(Path(folder), options.models, source, 64, train)
            config |= {"name": f"by{processes}", "threads": 1}
            apart(play_before, config)
            starts[processes], steps[processes] = apart(measure, config)
    one, two = steps[1], steps[2]
    lines = [
        line("a step, two processes", two, "s", f"one process: {one:.2f} s", two / one, "0.5"),
        line("until the first step ends, two processes", starts[2], "s", "one", None),
    ]
    save("scaling", lines, options.out)


def measure(values: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds until the first step's end, and the median of those from end to end."""
    clock, start = Clock(), time.perf_counter()
    train_round(open_session(make_config(values, "a case"), clock), 0)
    gaps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    return clock.ends[0] - start, median(gaps)


if __name__ == "__main__":
    main()
