"""A whole round of the real pipeline against the bare model work in it, and where the rest goes.

    python benchmarks/round.py MODELS [--problems FILE.jsonl] [--out bench]

Teacher SmolLM2-135M, student half of its layers, float32 on the CPU, 128 word problems, 64 new
tokens, Soft-OR at 20 %, a fresh store and a fresh run folder. Baseline: the forward passes with the
key-value cache that generation needs, both bodies and heads over the same sequences, and the
training steps' body, head products, clipping and optimiser; in the same process, once each right
after the round, which has warmed it, and once more as torch and transformers come. A stage counts
with the seconds that the run records. Then: what part of training waits for data, and what
sequences cost that end after their last selected token, against whole ones.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from arguments import models_folder
from defaults import defaults
from pair import load
from round_bare import Bare, micro_batches
from round_parts import LOADING, READING, STAGES, Parts
from round_reading import TOKENS as LONG_TOKENS
from round_reading import read_round, write_round
from timing import by_turns, line, save
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.models.device import resolve_dtype
from tip.stages.score.shard import read_rollouts
from tip.stages.select.select import select
from tip.stages.select.settings import SelectSettings
from tip.stages.train.data import TrainingData, load_training_data
from tip.stages.train.step import SelectiveStep
from tip.stages.train.train import accumulate
from tip.stages.train.worlds.alone import Alone
from tip.storage.columns import SELECTION
from tip.storage.store.store import Artifact
from tip.storage.tables import read_table, write_table

PROMPTS, TOKENS = 128, 64
RULES = ("soft_or", "entropy_top", "divergence", "q3", "random", "first", "last")
KEEPS = (0.05, 0.1, 0.2, 0.5)
THINGS = ("apples", "coins", "books", "trains")
TEMPLATES = (
    "Ann has {a} {thing}. She gives {b} away. How many are left?",
    "A shop sells {thing} in boxes of {b}. Ben buys {a} boxes, and a friend gives him {b} more "
    "{thing}. How many {thing} does Ben have in the end?",
    "On Monday a factory makes {a} {thing}, on Tuesday twice as many, and on Wednesday {b} fewer "
    "than on Tuesday. A tenth of all that was made in the three days is broken and thrown away; "
    "the rest is packed in crates that hold {b} {thing} each. How many crates are filled?",
)


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--problems", type=Path, help="JSONL with a column `problem`")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        problems = options.problems or word_problems(Path(folder))
        session = open_session(config(Path(folder), options.models, problems))
        parts = Parts()
        with parts.watching():
            seconds = seconds_of(lambda: play(session))
        played = Played.of(session, parts, seconds)
        lines = [*whole_round(played), *reading(played), *truncation(played)]
    save("round", lines, options.out)


def word_problems(folder: Path) -> Path:
    """Write problems of three lengths, and return the file."""
    rows = [
        {"problem": text.format(a=a, b=b, thing=thing)}
        for text in TEMPLATES
        for a in range(11, 17)
        for b in (3, 7)
        for thing in THINGS
    ]
    path = folder / "problems.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def config(folder: Path, models: Path, problems: Path) -> RunConfig:
    """Return a run of one round in a store of its own."""
    return make_config(
        {
            "name": "round",
            "rounds": 1,
            "store": str(folder / "store"),
            "runs": str(folder / "runs"),
            "device": "cpu",
            "student": {"model": str(models / "smollm2-half")},
            "teacher": {"model": str(models / "smollm2-135m")},
            "prompts": {
                "source": str(problems),
                "format": "{problem}",
                "template": "raw",
                "limit": 2 * PROMPTS,
            },
            "rollout": {"prompts": PROMPTS, "max_tokens": TOKENS},
            "train": {"lr": 1e-4, "warmup_steps": 2},
        },
        "benchmarks/round.py",
    )


@dataclass(frozen=True)
class Played:
    """A round that was played: what the run recorded of each stage, its parts, its artifacts.

    seconds: of the whole run, what it does before the first stage included.
    """

    session: Session
    parts: Parts
    seconds: float
    stages: dict[str, dict[str, Any]]
    rollouts: list[Path]
    teacher: list[Path]
    tokens: list[Path]

    @classmethod
    def of(cls, session: Session, parts: Parts, seconds: float) -> "Played":
        """Return what the run folder and the store say of the round."""
        pointers, store = session.run.round(0), session.store
        assert pointers is not None

        def paths(kind: str) -> list[Path]:
            found: list[Artifact | None] = [store.find(kind, key) for key in pointers.of(kind)]
            return [store.path(a, kind) for a in found if a is not None]

        metrics = {m["stage"]: m for m in session.run.metrics()}
        names = ("rollouts", "teacher", "tokens")
        return cls(session, parts, seconds, metrics, *(paths(kind) for kind in names))

    @cached_property
    def data(self) -> TrainingData:
        """Return what the round trained on."""
        return self.parts.training[0][0]


def whole_round(played: Played) -> list[dict[str, object]]:
    """Return the lines of the round and its stages against bare model work."""
    settings = played.session.config
    student, teacher = (load(s.model) for s in (settings.student, settings.teacher))
    shards = [read_rollouts(read_table([path]), None) for path in played.rollouts]
    bare = Bare(student, teacher, shards)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-6, fused=True)
    batches = [micro_batches(data, rows, settings.train) for data, rows in played.parts.training]

    def train() -> None:
        student.model.requires_grad_(True)
        bare.train(optimizer, batches, settings.train.clip)
        student.model.requires_grad_(False)

    works: dict[str, Callable[[], object]] = {
        "rollout": lambda: bare.generate(settings.rollout.batch_size),
        "score": lambda: bare.score(settings.score),
        "train": train,
    }
    floor = {name: seconds_of(work) for name, work in works.items()}
    with defaults(student, teacher):
        usual = {name: seconds_of(work) for name, work in works.items()}
    stages = {name: played.stages[name]["seconds"] for _, name in STAGES}
    print_profile(played, floor)
    total, least = sum(stages.values()), sum(floor.values())
    lines = [
        line(
            f"a whole round, {len(played.data.rollouts)} rollouts, "
            f"{len(played.data.responses.values):,} tokens",
            total,
            "s",
            f"bare model work {least:.3f} s",
            total / least,
            "<= 1.1",
        ),
        line(
            "  the same",
            total,
            "s",
            f"bare model work, torch's defaults {sum(usual.values()):.3f} s",
            total / sum(usual.values()),
            "<= 1.1",
        ),
    ]
    lines.append(
        line("  before, between and after the stages", played.seconds - total, "s", "the run", None)
    )
    for name, seconds in stages.items():
        least = floor.get(name)
        lines.append(
            line(
                f"  stage {name}",
                seconds,
                "s",
                "no model work"
                if least is None
                else f"bare {least:.3f} s, torch's defaults {usual[name]:.3f} s",
                None if least is None else seconds / least,
            )
        )
    return lines


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of a piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def print_profile(played: Played, floor: dict[str, float]) -> None:
    """Print each stage's parts and seconds, as a Markdown table."""
    print("| stage | part | seconds |\n|---|---|---|")
    for _, stage in STAGES:
        seconds = played.stages[stage]["seconds"]
        bare = f" (bare model work {floor[stage]:.2f})" if stage in floor else ""
        print(f"| **{stage}** | **all**{bare} | **{seconds:.2f}** |")
        for part, took in played.parts.of(stage).items():
            name = "the rest: keys, metrics, pointers" if part == stage else part
            if took >= 0.005:
                print(f"| | {name} | {took:.2f} |")
    print(flush=True)


def reading(played: Played) -> list[dict[str, object]]:
    """Return the lines of how long the trainer waited for data."""
    parts = played.parts.of("train")
    waited = parts[LOADING] + parts[READING]
    stage = played.stages["train"]
    with TemporaryDirectory() as folder:
        tables, selected = write_round(Path(folder)), 0

        def work() -> None:
            nonlocal selected
            selected = read_round(tables, played.session.config.train)

        long = by_turns({"read": work}, 2)["read"]
    return [
        line(
            "training waits for data",
            waited,
            "s",
            f"train stage {stage['seconds']:.3f} s",
            waited / stage["seconds"],
            "< 0.02",
        ),
        line(
            "  the same, a million selected tokens",
            waited / stage["trained_tokens"] * 1e6,
            "s",
            f"{stage['trained_tokens']:,} tokens: tables {parts[LOADING]:.3f} s, "
            f"batches {parts[READING]:.3f} s",
            None,
        ),
        line(
            "reading a long round, a million selected tokens",
            long / selected * 1e6,
            "s",
            f"{selected:,} of {LONG_TOKENS:,} tokens in {long:.3f} s",
            None,
        ),
    ]


def truncation(played: Played) -> list[dict[str, object]]:
    """Return the lines of what sequences that end after their last selected token save."""
    chosen, lines = {}, []
    whole = played.data.prompts.counts + played.data.responses.counts - 1
    print("\nbody tokens of training, with truncation over without; rollouts that cost nothing")
    print("| rule | scope |" + "".join(f" {keep:.0%} |" for keep in KEEPS))
    print("|---|---|" + "---|" * len(KEEPS))
    for rule in RULES:
        for scope in ("rollout", "round"):
            cells = []
            for keep in KEEPS:
                data = selected(played, rule, keep, scope)
                chosen[rule, scope, keep] = data
                share, free = data.lengths.sum() / whole.sum(), int((data.lengths == 0).sum())
                cells.append(f" {share:.3f}, {free} |")
                lines.append(
                    {
                        "what": f"body tokens fed, {rule}, {scope}, {keep:.0%}",
                        "value": int(data.lengths.sum()),
                        "unit": "tokens",
                        "baseline": f"{whole.sum():,} without truncation; {free} rollouts are free",
                        "ratio": float(share),
                        "target": "",
                    }
                )
            print(f"| {rule} | {scope} |" + "".join(cells), flush=True)
    return [*lines, truncated_step(played, chosen["soft_or", "round", 0.05])]


def truncated_step(played: Played, data: TrainingData) -> dict[str, object]:
    """Return the line of a training step with and without truncation."""
    settings = played.session.config
    student = load(settings.student.model)
    student.model.requires_grad_(True)
    rows = np.arange(settings.train.rollouts_per_step)

    def step(data: TrainingData) -> None:
        student.model.zero_grad(set_to_none=True)
        autocast = resolve_dtype(settings.train.autocast, student.device)
        module, whole = SelectiveStep(student, settings.train, autocast), len(data.positions)
        accumulate(Alone(), module, data, rows, settings.train, float(whole))

    untruncated = Whole(**{f.name: getattr(data, f.name) for f in fields(data)})
    works: dict[str, Callable[[], object]] = {
        "truncated": lambda: step(data),
        "whole": lambda: step(untruncated),
    }
    seconds = by_turns(works, 2)
    return line(
        f"a step of {len(rows)} rollouts, soft_or, scope round, 5 %",
        seconds["truncated"],
        "s",
        f"without truncation {seconds['whole']:.3f} s",
        seconds["truncated"] / seconds["whole"],
    )


class Whole(TrainingData):
    """The same data without truncation: every rollout goes through the body to its end."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return how many ids each rollout feeds to the body."""
        return self.prompts.counts + self.responses.counts - 1


def selected(played: Played, rule: str, keep: float, scope: Any) -> TrainingData:
    """Return the round's training data under another selection."""
    table, _ = select(
        played.tokens,
        played.rollouts,
        SelectSettings(rule=rule, keep=keep, scope=scope),
        seed=0,
        vocabulary=played.session.inputs.student_card.head_rows,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "selection.parquet"
        write_table(path, table, SELECTION)
        return load_training_data(played.rollouts, played.teacher, path)


if __name__ == "__main__":
    main()
