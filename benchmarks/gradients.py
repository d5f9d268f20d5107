"""What a step learns: the gradient of all parameters against that of the whole vocabulary.

    python benchmarks/gradients.py MODELS [--problems FILE] [--student FOLDER] [--tokens 8192]

Teacher SmolLM2-135M, student half of it, untrained and after a round of 64 x 64 tokens in 16 steps,
float32, rollouts of 64 tokens sampled by the student itself at temperature 1. Each loss takes its
gradient through the training's own step, over what scoring stored; the dense one has both models'
whole logits in float64. Cosines for steps of 512 tokens (mean and standard deviation of all of
them), of the first 2,048 and of the first 8,192: noise is averaged out, bias is not.

Problems are made here, or are those of a JSONL file with a column `problem`.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pyarrow as pa
import torch
from arguments import models_folder
from pair import load
from payload import rollouts_of, train, write_problems
from timing import line, save
from tip.stages.arrays.ragged import Ragged, from_lists
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.joint import score_joint
from tip.stages.score.settings import ScoreSettings
from tip.stages.settings import Divergence
from tip.stages.signals.alignment import states_at
from tip.stages.signals.supports import Cut, stored
from tip.stages.train.data import TrainingData, load_training_data
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import SelectiveStep
from tip.stages.train.train import accumulate
from tip.stages.train.worlds.alone import Alone
from tip.storage.columns import ROLLOUTS, SELECTION, TEACHER, schema
from tip.storage.tables import write_table
from torch import Tensor

LENGTH, A_STEP = 64, 8  # tokens of a rollout, rollouts of the smallest step
SIZES = (512, 2048, 8192)
CHUNK = 64  # rows of whole logits in float64

Gradient = list[Tensor]
"""Of each parameter."""


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--problems", type=Path, help="JSONL with a column `problem`")
    parser.add_argument("--student", type=Path, help="a trained student; else it is trained here")
    parser.add_argument("--tokens", type=int, default=SIZES[-1], help="of the largest step")
    parser.add_argument("--loss", choices=get_args(Divergence), default="reverse_kl")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    lines = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_problems(options.problems, folder)
        teacher = load(options.models / "smollm2-135m")
        trained = options.student or train(options.models, folder, 1, prompts=64, length=64)
        for who, path in (
            ("after a round", trained),
            ("untrained", options.models / "smollm2-half"),
        ):
            student = load(path)
            losses = losses_of(student, teacher, folder, options)
            lines += judged(who, student, teacher, losses, options.loss)
    save("gradients", lines, options.out)


@dataclass(frozen=True)
class Loss:
    """A way to train: what it reads, and its settings."""

    data: TrainingData
    settings: TrainSettings


def losses_of(
    student: LanguageModel, teacher: LanguageModel, folder: Path, options: argparse.Namespace
) -> dict[str, Loss]:
    """Return every loss over the same rollouts, by name."""
    table = rollouts_of(student, folder, options.tokens // LENGTH, LENGTH)
    found = {}

    def scored(rollouts: pa.Table, **changes: object) -> TrainingData:
        settings = ScoreSettings.model_validate({"check_rows": 0, **changes})
        signals, *_ = score_joint(student, teacher, rollouts, settings)
        return read(rollouts, signals, settings, folder)

    def add(name: str, data: TrainingData, tail: bool | str) -> None:
        chosen = TrainSettings.model_validate({"tail": tail, "loss": options.loss})
        found[name] = Loss(data, chosen)

    for most, rollouts in ((64, table), (8, shortened(table, 8))):
        data = scored(rollouts, teacher_top_max=most)
        for tail, words in NAMES.items():
            add(f"support of {most} and {most}, {words}", data, tail)
    add("the sampled token alone", alone(data), "residual")
    if options.loss == "forward_kl":
        for draws in (12, 50):
            data = scored(table, support="sampled", draws=draws)
            add(f"{draws} draws from the teacher", data, True)
    return found


NAMES: dict[bool | str, str] = {
    False: "no tail",
    True: "tail",
    "residual": "tail and residual",
}


def shortened(rollouts: pa.Table, most: int) -> pa.Table:
    """Return rollouts that kept fewer of the student's top ids at each place."""
    top = Ragged(from_lists(rollouts["top_ids"]).values, from_lists(rollouts["top_counts"]).values)
    counts = np.minimum(top.counts, most)
    ids, valid = top.padded(np.arange(len(counts)))
    values = ids[:, :most][valid[:, :most]]
    lengths = from_lists(rollouts["response_ids"])
    columns = {
        "top_counts": Ragged(counts, lengths.counts).lists(pa.int32()),
        "top_ids": Ragged(values, np.add.reduceat(counts, lengths.offsets[:-1])).lists(pa.int32()),
    }
    for name, column in columns.items():
        rollouts = rollouts.set_column(rollouts.column_names.index(name), name, column)
    return rollouts.cast(schema(ROLLOUTS))


def read(
    rollouts: pa.Table, signals: pa.Table, settings: ScoreSettings, folder: Path
) -> TrainingData:
    """Return a round of these tables in which all tokens are selected."""
    count = len(signals)
    chosen = {
        "rollout": signals["rollout"],
        "position": signals["position"],
        "weight": [1.0] * count,
        "type": ["Q1"] * count,
        "importance": [1.0] * count,
    }
    paths = {name: folder / f"{name}.parquet" for name in ("rollouts", "teacher", "selection")}
    write_table(paths["rollouts"], rollouts, ROLLOUTS)
    write_table(paths["teacher"], signals, TEACHER)
    write_table(paths["selection"], pa.table(chosen, schema=schema(SELECTION)), SELECTION)
    cuts = [Cut(settings.teacher_top_p, settings.teacher_top_max)]
    return load_training_data(
        [paths["rollouts"]],
        [paths["teacher"]],
        paths["selection"],
        cuts if settings.support == "top" else None,
    )


def alone(data: TrainingData) -> TrainingData:
    """Return the round with supports that hold nothing but the sampled token."""
    assert data.drawn is not None  # `read` asks for it
    ids = data.supports.ids
    own = ids.values == np.repeat(data.drawn.tokens, ids.counts)
    logprobs = data.supports.logprobs.values[own].astype(np.float64)
    tail = np.log(np.maximum(-np.expm1(logprobs), 1e-30)).astype(np.float32)
    supports = stored(ids.values[own], logprobs, np.ones(len(tail), np.int32), tail)
    outside = np.ones(len(tail), bool)
    return replace(data, supports=supports, drawn=replace(data.drawn, outside=outside))


@dataclass
class Sums:
    """A loss's gradient over all steps so far, and its cosines with the dense one."""

    total: Gradient = field(default_factory=list)
    cosines: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in SIZES})

    def add(self, gradient: Gradient) -> None:
        """Add the gradient of one more step."""
        if self.total:
            torch._foreach_add_(self.total, gradient)
        else:
            self.total = [g.clone() for g in gradient]


def judged(
    who: str,
    student: LanguageModel,
    teacher: LanguageModel,
    losses: dict[str, Loss],
    divergence: Divergence,
) -> list[dict[str, object]]:
    """Return a line a loss, and print them as a table."""
    student.model.requires_grad_(True)
    data = next(iter(losses.values())).data
    sums, dense = {name: Sums() for name in losses}, Sums()
    for rows in steps(data):
        exact = taken(student, whole_step, teacher, data, rows, divergence)
        dense.add(exact)
        done = (int(rows[-1]) + 1) * LENGTH
        for name, loss in losses.items():
            found, of_loss = taken(student, sparse_step, loss, rows), sums[name]
            of_loss.add(found)
            of_loss.cosines[SIZES[0]].append(cosine(found, exact))
            if done in SIZES[1:]:
                of_loss.cosines[done].append(cosine(of_loss.total, dense.total))
        print(f"    {who}: {done:,} tokens", flush=True)
    student.model.requires_grad_(False)
    return told(who, losses, sums)


def steps(data: TrainingData) -> Iterator[np.ndarray]:
    """Yield the rollouts of the smallest steps."""
    for start in range(0, len(data.rollouts), A_STEP):
        yield np.arange(start, min(start + A_STEP, len(data.rollouts)))


def taken(student: LanguageModel, work: Callable[..., None], *arguments: object) -> Gradient:
    """Return the gradient that some work leaves at the student's parameters."""
    student.model.zero_grad(set_to_none=True)
    work(student, *arguments)
    found = [p.grad for p in student.model.parameters() if p.grad is not None]
    student.model.zero_grad(set_to_none=True)
    return found


def sparse_step(student: LanguageModel, loss: Loss, rows: np.ndarray) -> None:
    """Take a step's gradient as `tip train` does."""
    module = SelectiveStep(student, loss.settings, torch.float32)
    accumulate(Alone(), module, loss.data, rows, loss.settings, 1.0)


def whole_step(
    student: LanguageModel,
    teacher: LanguageModel,
    data: TrainingData,
    rows: np.ndarray,
    divergence: Divergence,
) -> None:
    """Take a step's gradient over the whole vocabulary of both models."""
    places = np.concatenate([data.tokens(row) for row in rows])
    asked = (
        [data.sequence(row) for row in rows],
        [data.prompts.row(row) for row in rows],
        data.selected[rows],
        data.positions[places],
    )
    states = states_at(student, *asked)
    with torch.inference_mode():
        theirs = states_at(teacher, *asked)
    back, weight = torch.empty_like(states), student.head.weight
    for start in range(0, len(states), CHUNK):
        part = slice(start, start + CHUNK)
        ours = states[part].detach()
        with torch.no_grad():
            log_q = teacher.head.logits(theirs[part]).double().log_softmax(1)
            by_logits = dense_gradient(student.head.logits(ours), log_q, divergence)
            back[part] = by_logits @ weight
            left = by_logits.T @ ours
            weight.grad = left if weight.grad is None else weight.grad.add_(left)
    states.backward(back)


def dense_gradient(logits: Tensor, log_q: Tensor, divergence: Divergence) -> Tensor:
    """Return the gradient [C, V] of each row's divergence by its logits, float32."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    if divergence == "forward_kl":
        return (p - log_q.exp()).float()
    against = log_q if divergence == "reverse_kl" else ((p + log_q.exp()) / 2).log()
    ratio = (log_p - against) * (1 if divergence == "reverse_kl" else 0.5)
    return (p * (ratio - torch.linalg.vecdot(p, ratio)[:, None])).float()


def cosine(a: Gradient, b: Gradient) -> float:
    """Return the cosine of two gradients."""
    products = [(x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)]
    norms = [sum(float(x.square().sum(dtype=torch.float64)) for x in g) for g in (a, b)]
    return float(sum(products)) / float(np.sqrt(norms[0] * norms[1]))


def told(who: str, losses: dict[str, Loss], sums: dict[str, Sums]) -> list[dict[str, object]]:
    """Return a line a loss, and print them as a table."""
    lines, rows = [], []
    for name, loss in losses.items():
        cosines = sums[name].cosines
        small, *larger = cosines.values()
        cells = [f"{np.mean(small):.3f} ± {np.std(small):.3f}"]
        cells += [f"{found[0]:.3f}" for found in larger if found]
        entries = float(loss.data.supports.ids.counts.mean())
        last = next(c for c in (*reversed(larger), small) if c)[-1]
        lines.append(
            line(f"{who}: {name}", last, "", "the dense gradient (cosine)", None)
            | {f"cosine_{size}": found for size, found in cosines.items()}
            | {"entries": entries}
        )
        rows.append(f"| {name} | {entries:.1f} | {' | '.join(cells)} |")
    print(f"\n{who}\n\n| loss | entries | {' | '.join(f'{n:,} tokens' for n in SIZES)} |")
    print("|---|---|---|---|---|", *rows, "", sep="\n")
    return lines


if __name__ == "__main__":
    main()
