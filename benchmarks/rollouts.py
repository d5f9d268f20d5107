"""Rollouts of the embedded engine: the built-in student alone, and SmolLM2 against `generate`.

    python benchmarks/rollouts.py MODELS

`model.generate` gets the same prompts, left-padded, and the same lengths: both go on to the token
limit, so both make the same number of tokens.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from timing import by_turns, line, save
from tip.stages.engines import Request, Sampling
from tip.stages.engines.local import LocalEngine
from tip.stages.models import LanguageModel, load_model
from tip.stages.settings import ModelSettings

TURNS = 3
PAIR_ROWS, PAIR_TOKENS = 256, 64
ROWS, TOKENS, LONGEST = 32, 64, 96


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="folder with smollm2-135m (`make models`)")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    lines = [built_in()]
    model = load(options.models / "smollm2-half")
    rng = np.random.default_rng(0)
    lengths = rng.integers(LONGEST // 4, LONGEST, ROWS)
    prompts = [rng.integers(10, model.vocabulary, n).tolist() for n in lengths]
    works = {
        "engine": lambda: generate(model, prompts, TOKENS, ROWS, 64),
        "bare": lambda: generate(model, prompts, TOKENS, ROWS, 0),
        "transformers": lambda: plain(model, prompts),
    }
    seconds = by_turns(works, TURNS)
    made = ROWS * TOKENS
    for name, title in (
        ("engine", "rollouts, SmolLM2 half, with the student's top ids"),
        ("bare", "the same without top ids"),
    ):
        lines.append(
            line(
                title,
                made / seconds[name],
                "tokens/s",
                f"model.generate {made / seconds['transformers']:,.0f} tokens/s",
                seconds["transformers"] / seconds[name],
                ">= 1.5",
            )
        )
    save("rollouts", lines, options.out)


def built_in() -> dict[str, object]:
    """Return the line of the built-in student at batch 256."""
    pair = Path(str(files("tip.pipeline.demo") / "pair"))
    model = load(pair / "student")
    rng = np.random.default_rng(0)
    prompts = rng.integers(2, 36, (PAIR_ROWS, 10)).tolist()
    seconds = by_turns(
        {"engine": lambda: generate(model, prompts, PAIR_TOKENS, PAIR_ROWS, 64)}, TURNS
    )["engine"]
    speed = PAIR_ROWS * PAIR_TOKENS / seconds
    return line(
        "rollouts, built-in student, batch 256",
        speed,
        "tokens/s",
        "60,000 tokens/s",
        speed / 60_000,
        ">= 1",
    )


def load(folder: Path) -> LanguageModel:
    """Return a model in float32 on the CPU."""
    return load_model(ModelSettings(model=str(folder)), torch.device("cpu"), torch.float32)


def generate(
    model: LanguageModel, prompts: list[list[int]], tokens: int, batch: int, top: int
) -> None:
    """Sample with the embedded engine; no stop ids, so every row goes to the limit."""
    sampling = Sampling(
        seed=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_tokens=tokens,
        stop_ids=(),
        top_mass=0.99,
        top_most=top,
    )
    requests = [Request(tuple(ids), rollout) for rollout, ids in enumerate(prompts)]
    LocalEngine(model, batch).generate(requests, sampling)


def plain(model: LanguageModel, prompts: list[list[int]]) -> None:
    """Sample with transformers' own loop."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    with torch.inference_mode():
        model.model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            pad_token_id=0,
        )


if __name__ == "__main__":
    main()
