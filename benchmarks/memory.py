"""Memory of head and loss, beyond the body and the head's own gradient, whatever the budget.

    python benchmarks/memory.py MODELS [--chunk ELEMENTS] [--width D]

Each case is measured in a process of its own: how far memory rises while the supports of all
selected tokens are padded and `sparse_loss` runs, as `tip train` calls it, above what is held
before: model, hidden states [N, D] and the head's gradient [V, D]. Of the rise, the gradient of
the hidden states [N, D] is taken away: it is what the body's backward pass starts from. The body
runs without a graph, since its activations are not the head's.

Models: SmolLM2 with half of its layers, 4 rollouts of 64 + 192 tokens; and one small layer under a
head of 151,936 ids. For 8,192 selected tokens, the most of a micro-batch, the states of 4 rollouts
are repeated.

The baseline is the dense reverse KL by autograd, with the teacher's logits at hand, measured the
same way: neither those logits nor any [V, D] or [N, D] gradient count. It is measured at
no more than 768 tokens and scaled to the other N: each of its tensors is [N, V].
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import apart, preload, rise_mb
from arguments import models_folder
from pair import load
from timing import line, save
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.models.head import Head
from tip.stages.signals.loss import sparse_loss
from tip.stages.signals.objective import Objective
from tip.stages.signals.supports import stored
from tip.stages.train.settings import TrainSettings
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

ROLLOUTS, PROMPT, ENTRIES, WIDE = 4, 64, 88, 151_936
MB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Four rollouts through a model, a share of their response tokens selected.

    model: a folder, or None for one layer of `width` under a head of `WIDE` ids. repeats: how often
    each state is there. chunk: logits held at once, in numbers.
    """

    model: Path | None
    width: int
    chunk: int
    response: int
    keep: float = 1.0
    repeats: int = 1

    @property
    def selected(self) -> int:
        """Return the selected tokens of each rollout."""
        return int(self.keep * self.response)

    @property
    def tokens(self) -> int:
        """Return N."""
        return ROLLOUTS * self.selected * self.repeats


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", type=models_folder, help="folder with smollm2-half (`make models`)"
    )
    parser.add_argument("--chunk", type=int, default=TrainSettings().chunk(fused=False))
    parser.add_argument("--width", type=int, default=256, help="of the states under the wide head")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    preload(["torch", "transformers.models.llama.modeling_llama", "tip.stages.models.load"])
    half = Case(options.models / "smollm2-half", 0, options.chunk, 192)
    wide = Case(None, options.width, options.chunk, 512)
    lines = lines_of(
        "SmolLM2 half",
        half,
        [replace(half, keep=keep) for keep in (0.1, 0.2, 0.5, 1.0)]
        + [replace(half, response=512, repeats=4)],
    )
    lines += lines_of(
        f"V = {WIDE:,}, D = {options.width}",
        replace(wide, response=128),
        [wide, replace(wide, repeats=4)],
    )
    save("memory", lines, options.out)


def lines_of(model: str, measured: Case, cases: list[Case]) -> list[dict[str, object]]:
    """Return the lines of a model. measured: the case at which the dense loss is measured."""
    dense = apart(dense_loss, measured)
    lines, needs = [], []
    for case in cases:
        scale = case.tokens / measured.tokens
        how = "measured" if scale == 1 else f"scaled from {measured.tokens} tokens"
        needs.append(apart(sparse, case))
        lines.append(
            line(
                f"head + loss, {model}, {case.tokens:,} tokens",
                needs[-1],
                "MB",
                f"dense {dense * scale:,.0f} MB, {how}",
                needs[-1] / (dense * scale),
                "<= 100",
            )
        )
    lines.append(
        line(
            f"growth from {cases[0].tokens:,} to {cases[-1].tokens:,} tokens, {model}",
            needs[-1] - needs[0],
            "MB",
            f"{needs[0]:,.0f} MB at {cases[0].tokens:,} tokens",
            needs[-1] / needs[0],
            "0",
        )
    )
    return lines


def sparse(case: Case) -> float:
    """Return the MB of supports, head and loss over the selected tokens."""
    states, head = states_and_head(case)
    head.weight.requires_grad_()
    head.weight.grad = torch.zeros_like(head.weight).add_(1)  # touched, so that it is held
    n, vocabulary = len(states), len(head.weight)
    rng = np.random.default_rng(0)
    step = vocabulary // ENTRIES
    ids = np.arange(ENTRIES) * step + rng.integers(0, step, (n, ENTRIES))
    each = np.full(n, ENTRIES, np.int32)
    logprobs = np.log(rng.dirichlet(np.full(ENTRIES + 1, 0.3), n) + 1e-7)
    tail = logprobs[:, -1].astype(np.float32)
    supports = stored(ids.ravel(), logprobs[:, :-1].ravel(), each, tail)
    rows, weights = np.arange(n), torch.full((n,), 1 / n, dtype=torch.float64)
    chunk = chunk_rows(case.chunk, vocabulary)

    def work() -> None:
        support = supports.padded(rows, states.device)
        sparse_loss(states, head, support, weights, Objective("reverse_kl"), chunk=chunk)

    return rise_mb(work) - states.nbytes / MB


def dense_loss(case: Case) -> float:
    """Return the MB of head and loss over all ids of the selected tokens, by autograd."""
    states, head = states_and_head(case)
    weight = head.weight.requires_grad_()
    states.requires_grad_()
    teacher = torch.randn(len(states), len(weight))
    work = partial(dense_step, states, weight, teacher)
    return rise_mb(work) - (states.nbytes + weight.nbytes) / MB


def dense_step(states: Tensor, weight: Tensor, teacher: Tensor) -> None:
    """Take the gradient of the mean reverse KL. states: [N, D], weight: [V, D], teacher: [N, V]."""
    log_p, log_q = (states @ weight.T).log_softmax(-1), teacher.log_softmax(-1)
    (log_p.exp() * (log_p - log_q)).sum(-1).mean().backward()


def states_and_head(case: Case) -> tuple[Tensor, Head]:
    """Return the hidden states [N, D] of the selected tokens, and the head above them."""
    model = model_of(case)
    rng = np.random.default_rng(0)
    states = []
    with torch.no_grad():
        for _ in range(ROLLOUTS):
            ids = rng.integers(10, model.config.vocab_size, (1, PROMPT + case.response))
            hidden = model.base_model(torch.from_numpy(ids), use_cache=False).last_hidden_state
            places = np.sort(rng.permutation(case.response)[: case.selected])
            states.append(hidden[0, torch.from_numpy(places) + PROMPT - 1])
    return torch.cat(states * case.repeats), Head(model.get_output_embeddings().weight)


def model_of(case: Case) -> Any:
    """Return the case's model in float32, without gradients."""
    if case.model is not None:
        return load(case.model).model
    config = LlamaConfig(
        vocab_size=WIDE,
        hidden_size=case.width,
        intermediate_size=case.width,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


if __name__ == "__main__":
    main()
