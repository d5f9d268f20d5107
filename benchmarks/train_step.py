"""A training step against its floor, and against a dense step with teacher logits at hand.

    python benchmarks/train_step.py MODELS

Student: SmolLM2 with half of its layers, 4 rollouts of 64 + 192 tokens, float32. The floor is what
no implementation can go below: the body forward and backward over the same sequences, and three
plain matrix products (logits, gradient of the states, gradient of the weight) of the selected rows
with the head. Both are measured here, by turns with the step. The dense step has the teacher's
logits of every token in memory, so its teacher costs nothing. It runs as torch and transformers
come, and again with the matrix products and the attention of this project.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from arguments import models_folder
from defaults import by_default
from pair import load, three_products
from timing import by_turns, line, save
from tip.stages.arrays.batching import fill, pad
from tip.stages.arrays.ragged import Ragged
from tip.stages.models.device import resolve_dtype
from tip.stages.models.language_model import LanguageModel
from tip.stages.signals.supports import stored
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import SelectiveStep
from tip.stages.train.train import accumulate
from tip.stages.train.worlds.alone import Alone

ENTRIES, TURNS = 88, 4
KEEPS = (0.1, 0.2, 0.5, 1.0)
SETTINGS = TrainSettings(tail=True, batch_tokens=2048)


@dataclass(frozen=True)
class Shape:
    """How many rollouts a step has, and tokens of each prompt and response."""

    rollouts: int = 4
    prompt: int = 64
    response: int = 192


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", type=models_folder, help="folder with smollm2-half (`make models`)"
    )
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    student = load(options.models / "smollm2-half")
    student.model.requires_grad_(True)
    lines = []
    for keep in KEEPS:
        data = training_data(student.vocabulary, keep)
        works: dict[str, Callable[[], object]] = {
            "step": lambda data=data: step(student, data),
            "body": lambda data=data: body(student, data),
            "head": lambda data=data: three_products(student, len(data.positions)),
        }
        if keep == 0.2:
            works["same"] = dense_step(student, data)
            works["dense"] = by_default(works["same"], student)
        seconds = by_turns(works, TURNS)
        floor = seconds["body"] + seconds["head"]
        lines.append(
            line(
                f"train step, {keep:.0%} of the tokens",
                seconds["step"],
                "s",
                f"floor {floor:.3f} s (body {seconds['body']:.3f})",
                seconds["step"] / floor,
                "<= 1.06",
            )
        )
        if keep == 0.2:
            for name, how, target in (
                ("dense", "torch's defaults", ">= 2.2"),
                ("same", "our products and attention", ""),
            ):
                lines.append(
                    line(
                        f"dense full-vocabulary step, {how}",
                        seconds[name],
                        "s",
                        "train step at 20%",
                        seconds[name] / seconds["step"],
                        target,
                    )
                )
    save("train_step", lines, options.out)


def training_data(vocabulary: int, keep: float, shape: Shape = Shape()) -> TrainingData:
    """Return rollouts of random tokens, the same share selected in each, with random supports."""
    rng = np.random.default_rng(0)
    rollouts, response = shape.rollouts, shape.response

    def tokens(rows: int, length: int) -> Ragged:
        ids = rng.integers(10, vocabulary, rows * length).astype(np.int32)
        return Ragged(ids, np.full(rows, length, np.int32))

    count = int(keep * response)
    positions = np.concatenate(
        [np.sort(rng.permutation(response)[:count]) for _ in range(rollouts)]
    )
    n, step = len(positions), vocabulary // ENTRIES
    ids = np.arange(ENTRIES) * step + rng.integers(0, step, (n, ENTRIES))
    each = np.full(n, ENTRIES, np.int32)
    logprobs = np.log(rng.dirichlet(np.full(ENTRIES + 1, 0.3), n) + 1e-7)
    return TrainingData(
        rollouts=np.arange(rollouts),
        prompts=tokens(rollouts, shape.prompt),
        responses=tokens(rollouts, response),
        old_logprobs=Ragged(
            np.zeros(rollouts * response, np.float32), np.full(rollouts, response, np.int32)
        ),
        trainable=np.full(rollouts, response),
        selected=np.full(rollouts, count),
        positions=positions.astype(np.int32),
        weights=np.ones(n, np.float32),
        supports=stored(
            ids.ravel(), logprobs[:, :-1].ravel(), each, logprobs[:, -1].astype(np.float32)
        ),
    )


def step(student: LanguageModel, data: TrainingData, settings: TrainSettings = SETTINGS) -> None:
    """Take the gradient of a step, as `tip train` does."""
    student.model.zero_grad(set_to_none=True)
    autocast, rows = resolve_dtype(settings.autocast, student.device), np.arange(len(data.selected))
    module = SelectiveStep(student, settings, autocast)
    accumulate(Alone(), module, data, rows, settings, float(len(data.positions)))


def autocast(student: LanguageModel, settings: TrainSettings) -> torch.autocast:
    """Let a body compute in the type that a step's does."""
    dtype = resolve_dtype(settings.autocast, student.device)
    wanted = dtype != torch.float32
    kind = student.device.type
    return torch.autocast(
        kind, dtype=dtype if wanted else None, enabled=wanted, cache_enabled=False
    )


def body(student: LanguageModel, data: TrainingData, settings: TrainSettings = SETTINGS) -> None:
    """Run the body forward and backward over what a step reads, with a gradient at hand."""
    student.model.zero_grad(set_to_none=True)
    passes(student, data, settings)


def passes(student: LanguageModel, data: TrainingData, settings: TrainSettings) -> None:
    """Add the gradient of the body to what is there, micro-batch by micro-batch."""
    for rows in fill(data.lengths, settings.batch_tokens):
        ids = pad([data.sequence(row) for row in rows], student.device)
        with autocast(student, settings):
            hidden = student.hidden(ids)
        hidden.backward(torch.ones_like(hidden))


def dense_step(
    student: LanguageModel, data: TrainingData, settings: TrainSettings = SETTINGS
) -> Callable[[], None]:
    """Return a step over all response tokens and the whole vocabulary, by autograd."""
    start, count = int(data.prompts.counts[0]), len(data.selected)
    whole = [np.concatenate([data.prompts.row(r), data.responses.row(r)]) for r in range(count)]
    ids, response = pad(whole, student.device), int(data.responses.counts[0])
    dtype = resolve_dtype(settings.autocast, student.device)
    shape = count, response, student.vocabulary
    teacher = torch.randn(*shape, device=student.device, dtype=dtype)
    batches = fill([len(row) for row in whole], settings.batch_tokens)

    def work() -> None:
        student.model.zero_grad(set_to_none=True)
        for rows in map(torch.as_tensor, batches):
            with autocast(student, settings):
                logits = student.model(input_ids=ids[rows], use_cache=False).logits
            log_p = logits[:, start - 1 : -1].float().log_softmax(-1)
            log_q = teacher[rows].float().log_softmax(-1)
            loss = (log_p.exp() * (log_p - log_q)).sum(-1).sum() / (count * response)
            loss.backward()

    return work


if __name__ == "__main__":
    main()
