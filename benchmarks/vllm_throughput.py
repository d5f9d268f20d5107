"""The engine against vLLM alone: tokens a second of rollouts and of teacher scoring.

    python benchmarks/vllm_throughput.py MODEL [--device cpu] [--dtype float32]

Both sides get the same requests and give the same numbers: rollouts with seeds and the top 64
log-probs a token, scoring with the top 128 of the prompt. vLLM alone stops at its Python objects;
the engine's time goes on until its arrays are in the process that asked.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PAIRS, RUNS, REQUESTS, PROMPT, RESPONSE, TOP, SCORED_TOP = 2, 3, 32, 48, 64, 64, 128

SIDES, WORK = ("vllm", "engine"), ("rollout", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--part", choices=[f"{s}-{w}" for s in SIDES for w in WORK])
    options = parser.parse_args()
    if options.part:
        side, work = options.part.split("-")
        print("RESULT", {"vllm": raw, "engine": engine}[side](options, work == "score"))
        return
    for work in WORK:
        best = dict.fromkeys(SIDES, 0.0)
        for side in SIDES * PAIRS:  # by turns: other work on the machine hits both alike
            command = [sys.executable, "-P", *sys.argv, "--part", f"{side}-{work}"]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            best[side] = max(best[side], float(text.split("RESULT", 1)[1]))
        alone, ours = best.values()
        print(f"{work:<8} vLLM {alone:7.0f}, engine {ours:7.0f} tokens/s, ratio {ours / alone:.3f}")


def requests(vocabulary: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return rng.integers(1000, vocabulary - 1000, (REQUESTS, PROMPT)).tolist()


def spec(options: argparse.Namespace, scoring: bool):
    from tip.stages.engines.vllm.spec import EngineSpec

    vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
    return EngineSpec(
        options.model,
        options.dtype,
        options.device,
        PROMPT + RESPONSE + 1,
        REQUESTS,
        SCORED_TOP,
        vocabulary,
        scoring=scoring,
    )


def raw(options: argparse.Namespace, scoring: bool) -> float:
    terms = spec(options, scoring)
    os.environ |= terms.environment()
    from vllm import LLM, SamplingParams

    arguments = {k: v for k, v in terms.arguments().items() if v is not None}
    llm = LLM(**arguments, skip_tokenizer_init=True, generation_config="vllm")
    prompts = requests(terms.vocabulary)
    asked = [p + p[: RESPONSE - 1] for p in prompts] if scoring else prompts
    shared = {"ignore_eos": True, "flat_logprobs": True, "detokenize": False}

    def once(run: int) -> int:
        if scoring:
            params = [SamplingParams(max_tokens=1, prompt_logprobs=SCORED_TOP, **shared)]
            params *= REQUESTS
        else:
            seeds = range(run * REQUESTS, (run + 1) * REQUESTS)
            params = [
                SamplingParams(max_tokens=RESPONSE, seed=seed, logprobs=TOP, **shared)
                for seed in seeds
            ]
        llm.generate([{"prompt_token_ids": p} for p in asked], params, use_tqdm=False)
        return sum(map(len, asked)) if scoring else REQUESTS * RESPONSE

    return fastest(once)


def engine(options: argparse.Namespace, scoring: bool) -> float:
    from tip.stages.engines.protocols import Request, Sampling
    from tip.stages.engines.vllm.engine import VllmEngine

    terms = spec(options, scoring)
    prompts = requests(terms.vocabulary)
    sequences = [np.array(p + p[: RESPONSE - 1]) for p in prompts]

    def once(run: int) -> int:
        if scoring:
            made.score(sequences, [PROMPT] * REQUESTS, SCORED_TOP)
            return sum(map(len, sequences))
        asked = [Request(tuple(p), run * REQUESTS + i) for i, p in enumerate(prompts)]
        made.generate(asked, Sampling(1.0, 1.0, 0, RESPONSE, (), run, 0.99, TOP))
        return REQUESTS * RESPONSE

    with VllmEngine(terms) as made:
        return fastest(once)


def fastest(once: Callable[[int], int]) -> float:
    """Return tokens a second of the fastest of some runs."""
    rates = []
    for run in range(RUNS):
        begin = time.perf_counter()
        tokens = once(run)
        rates.append(tokens / (time.perf_counter() - begin))
    return max(rates)


if __name__ == "__main__":
    main()
