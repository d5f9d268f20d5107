"""The body of a training step, eager and with compiled layers, against the fewest operations."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from tip.benchmarks.train_step import Shape, autocast, body, passes, training_data
from tip.stages.arrays.batching import fill
from tip.stages.models.language_model import LanguageModel
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings

from .measure import Row, Setting, bf16_rate, compiling, rise_mb, row, timed
from .qwen3 import trainee

SHAPE, SMALL = Shape(8, 128, 1024), Shape(3, 8, 16)
# Rows and tokens of micro-batches, as those of a step differ: sequences end where no token of
# theirs is selected any more.
CUTS = ((7, 1151), (8, 1003), (1, 1151), (13, 610), (5, 1151), (2, 87))
SMALL_CUTS = ((2, 23), (3, 17), (1, 23), (3, 11), (2, 5))


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the body eager and compiled, and what compiling costs."""
    student, shape = trainee("1.7B", setting), setting.pick(SHAPE, SMALL)
    settings = TrainSettings()
    data = training_data(student.vocabulary, 0.2, shape)
    floor = operations(student, data, settings) / bf16_rate(setting)
    at = f"1.7B, {shape.rollouts} x ({shape.prompt} + {shape.response:,}) tokens"
    beside = f"its operations at this card's bfloat16 rate, {floor:.3g} s"
    work = partial(body, student, data, settings)
    # as in all micro-batches of a step but the first, gradients are there and are added to
    more = partial(passes, student, data, settings)
    eager = timed({"": work}, setting)[""]
    yield row(
        "body, eager",
        eager,
        beside,
        floor,
        at=at,
        rise_mb=rise_mb(more, setting),
        note="MB beyond weights and gradients",
        before="0.39 to 0.49 s, 3.8 to 4.6 x; + 25,400 MB",
    )
    counters: Any = torch._dynamo.utils.counters
    with compiling(student, setting) as seconds:
        counters.clear()
        compiled = timed({"": work}, setting)[""]
        yield row(
            "body, layers compiled",
            compiled,
            beside,
            floor,
            at=at,
            wanted="<= 2.0",
            rise_mb=rise_mb(more, setting),
            most_mb=13_000,
            note="MB beyond weights and gradients",
            before="0.230 s, 2.16 x; + 13,000 MB",
        )
        yield Row(
            "compiling them",
            at=at,
            value=(took := seconds()),
            low=took,
            high=took,
            baseline=f"one eager pass, {eager.median:.3g} s",
            ratio=took / eager.median,
            before="32 s",
        )
        programs, cuts = counters["stats"]["unique_graphs"], setting.pick(CUTS, SMALL_CUTS)
        for count, length in cuts:
            read(student, settings, count, length)
        again = counters["stats"]["unique_graphs"] - programs
        yield Row(
            "programs made for other lengths",
            at=f"{len(cuts)} micro-batches of other shapes, {seconds() - took:.3g} s",
            value=again,
            low=again,
            high=again,
            unit="",
            baseline=f"{programs} before, for all layers",
            ratio=again / max(programs, 1),
            note="one more where a micro-batch is a single row",
        )


def read(student: LanguageModel, settings: TrainSettings, count: int, length: int) -> None:
    """Run the body forward and backward over `count` rows of random tokens."""
    ids = torch.randint(student.vocabulary, (count, length), device=student.device)
    with autocast(student, settings):
        hidden = student.hidden(ids)
    hidden.backward(torch.ones_like(hidden))


def operations(student: LanguageModel, data: TrainingData, settings: TrainSettings) -> float:
    """Return the fewest operations of a body, forward and backward, over what a step reads.

    Six a weight and token, and of causal attention half of all pairs: two products of them
    forward, four backward. Padding counts: it is the batches' and no implementation's.
    """
    layers: Any = student.body.layers
    weights = sum(p.numel() for p in layers.parameters() if p.ndim > 1)
    config = student.model.config
    inner = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    total = 0.0
    for batch in fill(data.lengths, settings.batch_tokens):
        count, length = len(batch), int(data.lengths[batch].max())
        total += count * (6 * weights * length + 6 * inner * length**2)
    return total
