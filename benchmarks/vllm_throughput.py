"""The engine against vLLM alone: tokens a second of rollouts and of teacher scoring.

    python benchmarks/vllm_throughput.py MODEL [--device cpu] [--dtype float32]

Both sides get the same requests and give the same numbers: rollouts with seeds and the top 64
log-probs a token, scoring with the top 128 of the prompt. vLLM alone stops at its Python objects;
the engine's time goes on to arrays, and that of scoring to the finished `teacher` table.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RUNS, REQUESTS, PROMPT, RESPONSE, TOP, SCORED_TOP = 3, 128, 48, 64, 64, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--side", choices=["vllm", "engine"])
    options = parser.parse_args()
    if options.side:
        side = {"vllm": raw, "engine": engine}[options.side]
        print("RESULT", json.dumps(side(options)))
        return
    results = {}
    for side in ("vllm", "engine"):  # one after the other: each takes the memory it likes
        command = [sys.executable, "-P", *sys.argv, "--side", side]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[side] = json.loads(text.split("RESULT", 1)[1])
    for name, rate in results["vllm"].items():
        ours = results["engine"][name]
        print(f"{name:<10} vLLM {rate:8.0f}  engine {ours:8.0f} tokens/s  ratio {ours / rate:.3f}")


def requests(vocabulary: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return rng.integers(1000, vocabulary - 1000, (REQUESTS, PROMPT)).tolist()


def spec(options: argparse.Namespace, scoring: bool):
    from tip.stages.engines.vllm_engine import EngineSpec

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


def raw(options: argparse.Namespace) -> dict[str, float]:
    import os

    os.environ |= spec(options, False).environment()
    from vllm import LLM, SamplingParams

    out = {}
    for name, scoring in (("rollout", False), ("score", True)):
        arguments = {k: v for k, v in spec(options, scoring).arguments().items() if v is not None}
        llm = LLM(**arguments, skip_tokenizer_init=True, generation_config="vllm")
        prompts = requests(spec(options, False).vocabulary)
        shared = {"ignore_eos": True, "flat_logprobs": True, "detokenize": False}
        rates = []
        for run in range(RUNS):
            if scoring:
                asked = [p + p[: RESPONSE - 1] for p in prompts]
                params = [SamplingParams(max_tokens=1, prompt_logprobs=SCORED_TOP, **shared)]
                params = params * REQUESTS
            else:
                asked = prompts
                params = [
                    SamplingParams(
                        max_tokens=RESPONSE, seed=run * REQUESTS + i, logprobs=TOP, **shared
                    )
                    for i in range(REQUESTS)
                ]
            begin = time.perf_counter()
            llm.generate([{"prompt_token_ids": p} for p in asked], params, use_tqdm=False)
            tokens = sum(len(p) for p in asked) if scoring else REQUESTS * RESPONSE
            rates.append(tokens / (time.perf_counter() - begin))
        out[name] = max(rates)
        del llm
    return out


def engine(options: argparse.Namespace) -> dict[str, float]:
    from tip.stages.engines import Request, Sampling
    from tip.stages.engines.vllm_engine import VllmEngine

    prompts = requests(spec(options, False).vocabulary)
    out = {}
    with VllmEngine(spec(options, False)) as made:
        rates = []
        for run in range(RUNS):
            asked = [Request(tuple(p), run * REQUESTS + i) for i, p in enumerate(prompts)]
            begin = time.perf_counter()
            made.generate(asked, Sampling(1.0, 1.0, 0, RESPONSE, (), run, 0.99, TOP))
            rates.append(REQUESTS * RESPONSE / (time.perf_counter() - begin))
        out["rollout"] = max(rates)
    with VllmEngine(spec(options, True)) as made:
        rates = []
        for _ in range(RUNS):
            sequences = [np.array(p + p[: RESPONSE - 1]) for p in prompts]
            begin = time.perf_counter()
            made.score(sequences, [PROMPT] * REQUESTS, SCORED_TOP)
            rates.append(sum(map(len, sequences)) / (time.perf_counter() - begin))
        out["score"] = max(rates)
    return out


if __name__ == "__main__":
    main()
