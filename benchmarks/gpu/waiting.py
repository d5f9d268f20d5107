"""What a training step, a batch of scoring and a step of decoding wait for, by file and line.

On a GPU waits are those that CUDA's driver warns of (`torch.cuda.set_sync_debug_mode`); waiting for
an event is none of them. On a CPU they are those that `tests/stages/waits.py` counts while it plays
a GPU, which counts events, too.
"""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tip.benchmarks.rollouts import generate
from tip.benchmarks.scoring import SETTINGS, random_rollouts
from tip.benchmarks.train_step import Shape, training_data
from tip.stages.arrays.batching import fill
from tip.stages.models.device import resolve_dtype
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.joint import score_joint
from tip.stages.score.shard import read_rollouts
from tip.stages.train.optimizers import make_optimizer
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import SelectiveStep
from tip.stages.train.totals import Totals
from tip.stages.train.train import _step
from tip.stages.train.worlds.alone import Alone

from .measure import Row, Setting, left_out
from .qwen3 import half, make, trainee

Counting = Callable[[Callable[[], object]], Counter[str]]
SHOWN = 4  # places that a row names

TRAINING = {"wanted": "<= 1", "before": "4", "work": "waits of a training step"}
SCORING = {"wanted": "<= 2", "before": "107", "work": "waits of a batch of scoring"}
DECODING = {"wanted": "<= 0.125", "before": "15", "work": "waits of a step of decoding"}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield what each of them waits for."""
    if setting.device.type == "cuda":
        yield from _rows(setting, lambda model: model, _counted)
        return
    if (missing := left_out("waits", "pytest")) is not None:  # which plays a GPU
        yield missing
        return
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "stages"))
    from waits import on_gpu, played_gpu

    def counted(work: Callable[[], object]) -> Counter[str]:
        work()
        waits.clear()
        work()
        return Counter(waits.places)

    with played_gpu() as waits:
        yield from _rows(setting, on_gpu, counted)


def _rows(
    setting: Setting, placed: Callable[[LanguageModel], LanguageModel], counted: Counting
) -> Iterator[Row]:
    """Yield the rows. placed: gives a model where its waits are counted."""
    student = placed(trainee("0.6B", setting))
    fused = setting.pick("auto", False)
    settings = TrainSettings(tail=True, rollouts_per_step=8, fused=fused)
    data = training_data(student.vocabulary, 0.2, setting.pick(Shape(8, 128, 256), Shape(3, 8, 16)))
    optimizer, totals = make_optimizer(student.model, settings), Totals()
    step = SelectiveStep(student, settings, resolve_dtype(settings.autocast, setting.device))
    given = Alone(), step, optimizer, data, np.arange(len(data.selected)), settings, totals
    yield told(counted(lambda: _step(*given)), 1, **TRAINING)

    model = placed(make("0.6B", setting, half(setting)))
    count, prompt, response = setting.pick((64, 128, 256), (4, 6, 10))
    rollouts = random_rollouts(model.vocabulary, count, prompt, response)
    shard = read_rollouts(rollouts, None)
    settings_of = SETTINGS.model_copy(update={"batch_tokens": setting.pick(8192, 40)})
    batches = len(fill(shard.read_lengths(shard.student_prompts), settings_of.batch_tokens))
    found = counted(lambda: score_joint(model, model, rollouts, settings_of))
    yield told(found, batches, **SCORING)

    tokens = setting.pick(256, 16)
    prompts = [row.tolist() for row in shard.student_prompts]
    found = counted(lambda: generate(model, prompts, tokens, len(prompts), 64))
    yield told(found, tokens, **DECODING)


def told(found: Counter[str], steps: int, **more: str) -> Row:
    """Return the row of some waits, of so many steps or batches."""
    places = ", ".join(f"{count} {place}" for place, count in found.most_common(SHOWN))
    waits = found.total()
    return Row(
        at=f"{steps} of them",
        value=waits,
        low=waits,
        high=waits,
        unit="waits",
        baseline="the number of them",
        ratio=waits / steps,
        note=places,
        **more,  # type: ignore[arg-type]
    )


def _counted(work: Callable[[], object]) -> Counter[str]:
    """Return how often a work waits at each `file:line`, after one turn that is not counted."""
    work()
    torch.cuda.synchronize()
    with _warned() as found:
        work()
    return found


@contextmanager
def _warned() -> Iterator[Counter[str]]:
    """Count what CUDA's driver warns of inside the block."""
    found: Counter[str] = Counter()
    here = str(Path(torch.__file__).parent)

    def note(*_: object, **__: object) -> None:
        frames = [f for f in traceback.extract_stack()[:-1] if not f.filename.startswith(here)]
        frames = [f for f in frames if f.filename not in (__file__, warnings.__file__)]
        last = frames[-1] if frames else traceback.FrameSummary("?", 0, "?")
        found[f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
