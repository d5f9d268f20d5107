"""The embedded engine, as it is and replaying recorded steps, against `model.generate`."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from tip.benchmarks.rollouts import generate, plain

from .measure import Row, Setting, rise_mb, row, timed
from .qwen3 import half, make

TOP = 64  # of the student's ids kept at a token, as a round keeps them


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the tokens a second of a batch whose rows all go on to the limit."""
    model = make("1.7B", setting, half(setting))
    count, longest, tokens = setting.pick((128, 96, 256), (4, 8, 8))
    random = np.random.default_rng(0)
    lengths = random.integers(longest // 4, longest, count)
    prompts = [random.integers(10, model.vocabulary, n).tolist() for n in lengths]
    works: dict[str, Callable[[], object]] = {
        graphs: partial(generate, model, prompts, tokens, count, TOP, graphs=graphs == "replayed")
        for graphs in ("as they are", "replayed")
    }
    works["generate"] = partial(plain, model, prompts, [], tokens)
    found = timed(works, setting)
    speed = {name: taken.rate(count * tokens) for name, taken in found.items()}
    beside = speed["generate"].median
    for name, wanted, before in (
        ("as they are", "", "4,234 tokens/s, 0.98 x, with 15 waits a step"),
        ("replayed", ">= 3", ""),
    ):
        yield row(
            f"rollouts, {name}",
            speed[name],
            f"model.generate, {beside:,.0f} tokens/s",
            beside,
            at=f"1.7B, {count} rows x {tokens} tokens",
            unit="tokens/s",
            wanted=wanted,
            rise_mb=rise_mb(works[name], setting),
            note="MB beyond the model",
            before=before,
        )
