"""Joint scoring against the two forward passes with their heads, and nothing else.

    python benchmarks/scoring.py MODELS

A shard of 32 rollouts of 64 + 64 tokens; teacher SmolLM2-135M, student half of it, float32. The
forward passes run with the matrix products and the attention of this project, and again as torch
and transformers come.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from arguments import models_folder
from defaults import by_default
from pair import load
from timing import by_turns, line, save
from tip.stages.arrays.batching import fill
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.joint import score_joint
from tip.stages.score.settings import ScoreSettings
from tip.stages.score.shard import read_rollouts
from tip.stages.signals.alignment import predicting_states
from tip.storage.columns import ROLLOUTS, schema

ROWS, PROMPT, RESPONSE, TOP, TURNS = 32, 64, 64, 48, 2
SETTINGS = ScoreSettings(check_rows=0)


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    student, teacher = (load(options.models / name) for name in ("smollm2-half", "smollm2-135m"))
    rollouts = random_rollouts(student.vocabulary)
    seconds = by_turns(
        {
            "score": lambda: score_joint(student, teacher, rollouts, SETTINGS),
            "check": lambda: score_joint(student, teacher, rollouts, ScoreSettings()),
            "plain": lambda: plain(student, teacher, rollouts),
            "default": by_default(lambda: plain(student, teacher, rollouts), student, teacher),
        },
        TURNS,
    )
    tokens = ROWS * RESPONSE
    lines = [
        line(
            f"joint scoring, {tokens:,} tokens",
            seconds["score"],
            "s",
            f"two forward passes {seconds['plain']:.3f} s",
            seconds["score"] / seconds["plain"],
            "<= 1.15",
        ),
        line(
            "  with a rollout of 32 scored again as a check",
            seconds["check"],
            "s",
            "two forward passes",
            seconds["check"] / seconds["plain"],
        ),
        line(
            "  with its check",
            seconds["check"],
            "s",
            f"two forward passes, torch's defaults {seconds['default']:.3f} s",
            seconds["check"] / seconds["default"],
        ),
    ]
    save("scoring", lines, options.out)


def random_rollouts(
    vocabulary: int, rows: int = ROWS, prompt: int = PROMPT, response: int = RESPONSE
) -> pa.Table:
    """Return a shard of random tokens with `TOP` student ids at each."""
    rng = np.random.default_rng(0)
    step = vocabulary // TOP
    top = np.arange(TOP) * step + rng.integers(0, step, (rows * response, TOP))
    columns = {
        "rollout": np.arange(rows),
        "prompt_hash": [f"{row}" for row in range(rows)],
        "sample": np.zeros(rows, np.int32),
        "prompt_ids": list(rng.integers(10, vocabulary, (rows, prompt))),
        "response_ids": list(rng.integers(10, vocabulary, (rows, response))),
        "trainable": [[True] * response] * rows,
        "logprobs": [[-1.0] * response] * rows,
        "top_ids": list(top.reshape(rows, -1)),
        "top_counts": [[TOP] * response] * rows,
        "stop_reason": ["length"] * rows,
        "reward": pa.nulls(rows, pa.float32()),
    }
    return pa.table(columns, schema=schema(ROLLOUTS))


@torch.inference_mode()
def plain(student: LanguageModel, teacher: LanguageModel, rollouts: pa.Table) -> None:
    """Run both bodies and both heads over the same tokens, chunk by chunk."""
    shard = read_rollouts(rollouts, None)
    chunk = chunk_rows(SETTINGS.chunk(), student.vocabulary)
    for rows in fill(shard.read_lengths(shard.student_prompts), SETTINGS.batch_tokens):
        for model, prompts in (
            (student, shard.student_prompts),
            (teacher, shard.teacher_prompts),
        ):
            states = predicting_states(model, prompts, shard.responses, rows)
            for _ in model.head.pieces(states, chunk, model.vocabulary):
                pass


if __name__ == "__main__":
    main()
