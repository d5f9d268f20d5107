"""On a GPU: what decoding, scoring and training wait for, by file and line, and what they take.

    python benchmarks/gpu/waiting.py MODEL [--rows 128] [--tokens 256] [--out FOLDER]

needs a GPU and an installed tip. Waits are those that CUDA's driver warns of
(`torch.cuda.set_sync_debug_mode`); waiting for an event is none of them. Decoding is taken as it is
and replayed from recorded steps, a training step with layers compiled and not; each counts with
its fastest turn. With a GPU missing (`--device cpu`) nothing waits, and figures say nothing of one.
"""

import argparse
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # what all benchmarks share

import train_step
from pair import card
from timing import by_turns, line, save
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request, Sampling
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.load import load_model
from tip.stages.prompts.render import Prompt
from tip.stages.rollout.rollout import roll_out
from tip.stages.score.joint import score_joint
from tip.stages.score.settings import ScoreSettings
from tip.stages.train.compiled import compiled_layers
from tip.storage.keys import ids_hash

TURNS, PROMPT = 2, 64


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model folder, teacher and student alike")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = load_model(card(options.model), device, dtype)
    lines = [*decoding(model, options.rows, options.tokens), scoring(model, options.rows)]
    del model
    save("waiting", [*lines, *training(options.model, device)], options.out)


def decoding(model: LanguageModel, rows: int, tokens: int) -> Iterator[dict[str, object]]:
    """Yield the lines of decoding: as it is, and replayed."""
    asked, terms = requests(rows, model.vocabulary), sampling(tokens)
    engines = {g: LocalEngine(model, rows, graphs=g) for g in (False, True)}
    seconds = by_turns(
        {str(g): lambda e=e: done(e.generate(asked, terms), model) for g, e in engines.items()},
        TURNS,
    )
    found = waits(lambda: engines[False].generate(asked, terms), model.device)
    yield told(f"decoding, waits in {tokens} steps", found, tokens)
    for graphs in engines:
        speed, first = rows * tokens / seconds[str(graphs)], rows * tokens / seconds["False"]
        title = f"decoding, {rows} rows, {'replayed' if graphs else 'as it is'}"
        yield line(title, speed, "tokens/s", "as it is", speed / first)


def scoring(model: LanguageModel, rows: int) -> dict[str, object]:
    """Return the line of joint scoring, the model by itself."""
    prompts = [
        Prompt(r.prompt_ids, ids_hash(list(r.prompt_ids)), r.prompt_ids, None, 0)
        for r in requests(rows, model.vocabulary)
    ]
    table = roll_out(LocalEngine(model, rows), prompts, 1, sampling(PROMPT))
    found = waits(lambda: score_joint(model, model, table, ScoreSettings()), model.device)
    return told(f"scoring, waits in {rows * PROMPT:,} tokens", found, 1)


def training(folder: Path, device: torch.device) -> Iterator[dict[str, object]]:
    """Yield the lines of a training step: its layers as they are, and compiled."""
    student = load_model(card(folder), device, torch.float32)
    student.model.requires_grad_(True)
    data = train_step.training_data(student.vocabulary, 0.2)
    seconds = {}
    for name, layers in (("as they are", nullcontext()), ("compiled", compiled_layers(student))):
        with layers:
            work = {name: lambda: done(train_step.step(student, data), student)}
            seconds |= by_turns(work, TURNS)
            found = waits(lambda: train_step.step(student, data), device)
        yield told(f"training step, layers {name}, waits", found, 1)
        ratio = seconds[name] / seconds["as they are"]
        yield line(f"training step, layers {name}", seconds[name], "s", "as they are", ratio)


def requests(rows: int, vocabulary: int) -> list[Request]:
    """Return requests of random prompts."""
    ids = np.random.default_rng(0).integers(10, vocabulary, (rows, PROMPT))
    return [Request(tuple(row.tolist()), n) for n, row in enumerate(ids)]


def sampling(tokens: int) -> Sampling:
    """Return terms under which each row goes on to the limit."""
    return Sampling(1.0, 1.0, 0, tokens, (), 0, 0.99, 64)


def done(result: object, model: LanguageModel) -> object:
    """Wait until the GPU has done what a work gave it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return result


def told(what: str, found: Counter[str], steps: int) -> dict[str, object]:
    """Return the line of some waits, and print where they are."""
    for place, count in found.most_common(12):
        print(f"    {count:>6} {place}")
    return line(what, found.total(), "waits", "a step", found.total() / steps)


def waits(work: Callable[[], object], device: torch.device) -> Counter[str]:
    """Return how often a work waits at each `file:line`, after one turn that is not counted."""
    work()
    with counting(device) as found:
        work()
    return found


@contextmanager
def counting(device: torch.device) -> Iterator[Counter[str]]:
    """Count what the driver warns of inside the block."""
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
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    main()
