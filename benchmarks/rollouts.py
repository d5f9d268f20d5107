"""Rollouts of the embedded engine: the built-in student alone, and SmolLM2 against `generate`.

    python benchmarks/rollouts.py MODELS

`model.generate` gets the same prompts, left-padded, and runs as torch and transformers come. Two
kinds of lengths: ragged, where one id in twenty of the vocabulary ends a response, so that rows end
at different steps as real ones do and each side counts the tokens it made up to there; and equal,
where all go on to the token limit and there is nothing to gain but overhead.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from arguments import models_folder
from defaults import defaults
from pair import load
from timing import by_turns, line, save
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request, Sampling
from tip.stages.models.language_model import LanguageModel

TURNS = 2
PAIR_ROWS, PAIR_TOKENS = 256, 64
ROWS, LIMIT, LONGEST, ONE_STOP_IN = 32, 64, 96, 20


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", type=models_folder, help="folder with smollm2-135m (`make models`)"
    )
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    lines = [built_in()]
    model = load(options.models / "smollm2-half")
    rng = np.random.default_rng(0)
    lengths = rng.integers(LONGEST // 4, LONGEST, ROWS)
    prompts = [rng.integers(10, model.vocabulary, n).tolist() for n in lengths]
    stops = rng.choice(model.vocabulary, model.vocabulary // ONE_STOP_IN, replace=False).tolist()
    for title, stop_ids, target in (
        ("rollouts, SmolLM2 half, ragged lengths", stops, ">= 1.5"),
        ("rollouts, SmolLM2 half, equal lengths", [], ""),
    ):
        counts: dict[str, int] = {}
        works: dict[str, Callable[[], object]] = {
            "engine": lambda stop_ids=stop_ids, counts=counts: counts.update(
                engine=generate(model, prompts, LIMIT, ROWS, 64, stop_ids)
            ),
            "transformers": lambda stop_ids=stop_ids, counts=counts: counts.update(
                transformers=plain(model, prompts, stop_ids)
            ),
        }
        seconds = by_turns(works, TURNS)
        speed = {name: counts[name] / seconds[name] for name in works}
        lines.append(
            line(
                f"{title} (mean {counts['engine'] / ROWS:.0f} tokens)",
                speed["engine"],
                "tokens/s",
                f"model.generate {speed['transformers']:,.0f} tokens/s "
                f"(mean {counts['transformers'] / ROWS:.0f})",
                speed["engine"] / speed["transformers"],
                target,
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


def generate(
    model: LanguageModel,
    prompts: list[list[int]],
    tokens: int,
    batch: int,
    top: int,
    stop_ids: Sequence[int] = (),
    *,
    graphs: bool = False,
) -> int:
    """Sample with the embedded engine; return the tokens made."""
    sampling = Sampling(
        seed=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_tokens=tokens,
        stop_ids=tuple(stop_ids),
        top_mass=0.99,
        top_most=top,
    )
    requests = [Request(tuple(ids), rollout) for rollout, ids in enumerate(prompts)]
    engine = LocalEngine(model, batch, graphs=graphs)
    return len(engine.generate(requests, sampling).ids.values)


def plain(
    model: LanguageModel, prompts: list[list[int]], stop_ids: list[int], tokens: int = LIMIT
) -> int:
    """Sample with transformers' own loop; return the tokens made, stop tokens included."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    torch.manual_seed(0)
    with defaults(model), torch.inference_mode():
        out = model.model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=tokens,
            min_new_tokens=None if stop_ids else tokens,
            eos_token_id=stop_ids or None,
            pad_token_id=0,
        )
    stopped = torch.isin(out[:, longest:].cpu(), torch.tensor(stop_ids, dtype=torch.long))
    before = stopped.cumsum(1) - stopped.long()
    return int((before == 0).sum())


if __name__ == "__main__":
    main()
