"""The memory plan beside what processes held at most: each stage, and training in its lean forms.

    python benchmarks/plan.py MODELS [--problems FILE.jsonl] [--out bench]

Teacher SmolLM2-135M, student half of its layers, float32 on the CPU, 16 word problems, 64 new
tokens. Each case is planned and played in a process of its own, which finds what others stored, so
that its peak is that of its own stage. The baseline is the plan's estimate: 1 is exact, above 1 the
stage took more than was planned. Processes that train together are not among the cases: their
memory is that of several processes.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apart import apart, peak_mb, preload
from arguments import models_folder
from round import word_problems
from timing import line, save
from tip.pipeline.config.toml import make_config
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.single import rollout_round, score_round, select_round, train_round
from tip.pipeline.session import look_at, open_session

STAGES = {"rollout": rollout_round, "score": score_round, "train": train_round}
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rollout", "rollout", {}),
    ("score", "score", {}),
    ("train", "train", {}),
    ("train, activation_checkpointing", "train", {"activation_checkpointing": True}),
    ("train, adamw8bit", "train", {"optimizer": "adamw8bit"}),
    ("train, lora of rank 32", "train", {"lora": {"rank": 32}}),
    (
        "train, lora of rank 32, activation_checkpointing",
        "train",
        {"lora": {"rank": 32}, "activation_checkpointing": True},
    ),
)


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--problems", type=Path, help="JSONL with a column `problem`")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    preload(["tip.pipeline.rounds.single", "tip.stages.train.train"])
    lines = []
    with TemporaryDirectory() as folder:
        source = options.problems or word_problems(Path(folder))
        for number, (name, stage, train) in enumerate(CASES):
            # a rate of its own: what changes memory alone is in no key
            settings = {"lr": max(3, 1 + number) * 1e-5, "rollouts_per_step": 8, **train}
            config = one_round(Path(folder), options.models, source, 16, settings)
            config["name"] = f"case{number}" if stage == "train" else "case2"
            if stage == "train":  # what the process then finds
                apart(play_before, config)
            planned, held = apart(measure, config, stage)
            lines.append(line(name, held, "MB", f"{planned:,.0f} MB planned", held / planned))
    save("plan", lines, options.out)


def one_round(
    folder: Path, models: Path, source: Path, prompts: int, train: dict[str, Any]
) -> dict[str, Any]:
    """Return the config, less its name, of a round of so many prompts and 64 new tokens each."""
    return {
        "store": f"{folder}/store",
        "runs": f"{folder}/runs",
        "rounds": 1,
        "student": {"model": str(models / "smollm2-half")},
        "teacher": {"model": str(models / "smollm2-135m")},
        "prompts": {"source": str(source), "format": "{problem}", "limit": prompts},
        "rollout": {"prompts": prompts, "max_tokens": 64},
        "train": train,
    }


def play_before(values: dict[str, Any]) -> None:
    """Make what a training finds."""
    session = open_session(make_config(values, "a case"))
    rollout_round(session, 0)
    score_round(session, 0)
    select_round(session, 0)


def measure(values: dict[str, Any], stage: str) -> tuple[float, float]:
    """Return what a stage was planned to take, and what this process held at most, in MB."""
    config = make_config(values, "a case")
    plan = plan_of(look_at(config))
    (need,) = [need for need in plan.memory if need.stage == stage]
    STAGES[stage](open_session(config), 0)
    return (need.bytes or 0) / (1 << 20), peak_mb()


if __name__ == "__main__":
    main()
