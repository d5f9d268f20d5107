"""A training step against its body and the products of its head, and a dense step against it."""

from collections.abc import Callable, Iterator
from functools import partial

from tip.benchmarks.train_step import body, dense_step, step, training_data
from tip.stages.signals.fused import lack
from tip.stages.train.settings import TrainSettings

from .body import SHAPE, SMALL
from .measure import Row, Setting, compiling, products, rise_mb, row, timed
from .qwen3 import half, trainee

FUSED, PLAIN = "train step at 20 %, fused loss", "train step at 20 %, plain loss"


def rows(setting: Setting) -> Iterator[Row]:
    """Yield steps at 20 % with the fused loss and the plain one, and the dense step."""
    student, shape = trainee("1.7B", setting), setting.pick(SHAPE, SMALL)
    data = training_data(student.vocabulary, 0.2, shape)
    plain = TrainSettings(tail=True, fused=False)
    vocabulary, width = student.head.weight.shape
    works: dict[str, Callable[[], object]] = {
        "body": partial(body, student, data, plain),
        "products": products(len(data.positions), width, vocabulary, setting.device),
        PLAIN: partial(step, student, data, plain),
        "dense": dense_step(student, data, plain),
    }
    reason = lack(setting.device, half(setting))
    if reason is None:
        works[FUSED] = partial(step, student, data, TrainSettings(tail=True, fused=True))
    at = f"1.7B, {shape.rollouts} x ({shape.prompt} + {shape.response:,}) tokens, layers compiled"
    with compiling(student, setting):
        found = timed(works, setting)
        floor = found["body"].median + found["products"].median
        beside = f"its body and three products in bfloat16, {floor:.3g} s"
        if reason is not None:
            yield Row(FUSED, at=at, wanted="<= 1.05", note=f"left out: {reason}")
        for work in (FUSED, PLAIN):
            if work in found:
                yield row(
                    work,
                    found[work],
                    beside,
                    floor,
                    at=at,
                    wanted="<= 1.05" if work == FUSED else "",
                    rise_mb=rise_mb(works[work], setting),
                    note="MB beyond the weights",
                    before="0.405 s, eager; 3.8 x its body's operations" if work == PLAIN else "",
                )
        ours = FUSED if reason is None else PLAIN
        yield row(
            "dense step",
            found["dense"],
            f"{ours}, {found[ours].median:.3g} s",
            found[ours].median,
            at=at,
            wanted=">= 1.4",
            rise_mb=rise_mb(works["dense"], setting),
            note="the teacher's logits lie ready; MB beyond them and the weights",
            before="0.511 s, 1.26 x, both eager",
        )
