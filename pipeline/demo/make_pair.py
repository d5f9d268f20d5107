"""Train the demo's teacher and student from nothing and export them as Hugging Face folders.

    python -m tip.pipeline.demo.make_pair --out DIR

`DIR/teacher` and `DIR/student` hold bf16 safetensors, the two configs and the tokenizer's files;
`DIR/README.md`, written last, states what the exported models measure on held-out problems. Every
seed is fixed: the same machine, versions and thread count give the same bytes. A few minutes.

The student is weak by wrong data, not by stopping early: before its phase change (about 270 steps)
it has no misconceptions to correct, only noise. The teacher's loss leaves the deliberately wrong
tokens out, so that it goes on sensibly after a student's error instead of being confident nonsense.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from .task import (
    EOS_ID,
    MAX_RESPONSE_TOKENS,
    PAD_ID,
    PROMPT_TOKENS,
    STUDENT_ERRORS,
    TEACHER_ERRORS,
    VOCABULARY,
    Errors,
    Problem,
    build_tokenizer,
    decode,
    draw_problems,
    encode,
    read_answer,
    write_pad,
)

PAIR_FOLDER = Path(__file__).parent / "pair"
EVALUATION_SEED = 2
IGNORED = -100  # the label that cross_entropy leaves out
BATCH = 64
PEAK_LR, FLOOR_LR = 3e-3, 0.05  # the floor is a fraction of the peak
WARMUP_STEPS = 30


@dataclass(frozen=True)
class Recipe:
    """How one of the two models is shaped and trained."""

    name: str
    shape: dict[str, Any]
    errors: Errors
    masks_errors: bool
    """Whether the loss leaves out the deliberately wrong tokens."""
    problems: int
    steps: int
    seed: int


TEACHER = Recipe(
    name="teacher",
    shape={"hidden_size": 128, "num_hidden_layers": 4, "head_dim": 32, "intermediate_size": 256},
    errors=TEACHER_ERRORS,
    masks_errors=True,
    problems=40_000,
    steps=600,
    seed=0,
)
STUDENT = Recipe(
    name="student",
    shape={"hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16, "intermediate_size": 192},
    errors=STUDENT_ERRORS,
    masks_errors=False,
    # Not fewer: the 3 % of right borrows must teach it 45 differences and the tens after them. With
    # 8 000 problems and 700 steps ten rounds of distillation end at 69 % greedy: the student comes
    # to borrow but cannot do the sum. With these they end at 87 % (at 99 % from seed 2).
    problems=20_000,
    steps=1200,
    seed=1,
)


def build_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """A fresh fp32 model of the recipe's shape; draws from torch's global generator."""
    config = Qwen3Config(
        **recipe.shape,
        vocab_size=len(VOCABULARY),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def build_examples(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [problems, PROMPT_TOKENS + MAX_RESPONSE_TOKENS], right-padded.

    A label stands at its own token's position; prompt, padding and masked errors are `IGNORED`.
    """
    rng = random.Random(recipe.seed)
    width = PROMPT_TOKENS + MAX_RESPONSE_TOKENS
    ids = torch.full((recipe.problems, width), PAD_ID)
    labels = torch.full((recipe.problems, width), IGNORED)
    row = 0
    for problem in draw_problems(rng, held_out=False):
        if row == recipe.problems:
            break
        pad = write_pad(problem, rng, recipe.errors)
        if pad is None:
            continue
        end = PROMPT_TOKENS + len(pad.ids)
        ids[row, :end] = torch.tensor(encode(problem.prompt) + pad.ids)
        wrong = torch.tensor(pad.wrong) & recipe.masks_errors
        labels[row, PROMPT_TOKENS:end] = torch.tensor(pad.ids).masked_fill(wrong, IGNORED)
        row += 1
    return ids, labels


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine from the peak to its floor."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)
    return PEAK_LR * (FLOOR_LR + (1 - FLOOR_LR) * (1 + math.cos(math.pi * done)) / 2)


def train(recipe: Recipe) -> Qwen3ForCausalLM:
    """Train a model of the recipe from nothing in fp32."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe).train()
    ids, labels = build_examples(recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01
    )
    order = torch.empty(0, dtype=torch.long)
    for step in range(recipe.steps):
        if len(order) < BATCH:
            order = torch.randperm(len(ids))
        batch, order = order[:BATCH], order[BATCH:]
        logits = model(input_ids=ids[batch, :-1]).logits
        loss = cross_entropy(
            logits.flatten(0, 1), labels[batch, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, recipe.steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"{recipe.name}: step {step + 1}, loss {loss.item():.3f} nats", flush=True)
    return model.eval()


def export(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write `model` as bf16 safetensors with its configs and tokenizer; turns `model` into bf16."""
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    model.bfloat16().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def load(folder: Path) -> Qwen3ForCausalLM:
    """The exported model, its bf16 weights widened to fp32."""
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def held_out_problems(count: int) -> list[Problem]:
    """The first `count` of the held-out problems that the README's figures are measured on."""
    return list(islice(draw_problems(random.Random(EVALUATION_SEED), held_out=True), count))


@torch.inference_mode()
def accuracy(
    model: Qwen3ForCausalLM, problems: Sequence[Problem], *, samples: bool = False
) -> float:
    """Fraction of right boxed answers: greedy, or sampled at T=1 (torch's global generator)."""
    # temperature, top_k and top_p at their neutral values: transformers truncates to 50 by default.
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if samples else {}
    prompts = torch.tensor([encode(problem.prompt) for problem in problems])
    ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]  # its protocol's device
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=MAX_RESPONSE_TOKENS,
        **(sampling or {"do_sample": False}),
    )
    texts = [decode(row) for row in ids[:, PROMPT_TOKENS:].tolist()]
    right = [read_answer(t) == p.answer for t, p in zip(texts, problems, strict=True)]
    return sum(right) / len(right)


README = """# The built-in pair

Written by `python -m tip.pipeline.demo.make_pair`; not edited by hand. Both models are
Qwen3ForCausalLM with tied embeddings and the same tokenizer of {vocabulary} strings. The teacher
knows chained two-digit arithmetic; the student was taught it with two misconceptions (it takes the
smaller digit from the larger, and forgets carries).

| model | parameters | model.safetensors | steps | greedy accuracy | accuracy at T=1 |
|---|---|---|---|---|---|
{rows}

Accuracy: right boxed answers on {problems} held-out problems, of the exported bf16 weights computed
in fp32. Threads: {threads}; torch {torch}.
"""


def measure_row(recipe: Recipe, folder: Path, problems: Sequence[Problem]) -> str:
    """One row of the README's table."""
    model = load(folder)
    torch.manual_seed(EVALUATION_SEED)
    greedy, sampled = accuracy(model, problems), accuracy(model, problems, samples=True)
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    return (
        f"| {recipe.name} | {model.num_parameters():,} | {megabytes:.2f} MB | {recipe.steps} "
        f"| {greedy:.1%} | {sampled:.1%} |"
    )


def make_pair(out: Path, *, evaluation_problems: int, threads: int) -> str:
    """Train, export and measure both models; return the text of the README."""
    torch.set_num_threads(threads)
    problems = held_out_problems(evaluation_problems)
    rows = []
    for recipe in (TEACHER, STUDENT):
        export(train(recipe), out / recipe.name)
        rows.append(measure_row(recipe, out / recipe.name, problems))
    text = README.format(
        vocabulary=len(VOCABULARY),
        rows="\n".join(rows),
        problems=len(problems),
        torch=torch.__version__,
        threads=threads,
    )
    (out / "README.md").write_text(text)
    return text


def main() -> None:
    """Parse the command line and make the pair."""
    parser = argparse.ArgumentParser(
        description="Train the demo's teacher and student from nothing."
    )
    parser.add_argument(
        "--out", type=Path, default=PAIR_FOLDER, help="folder that receives the pair"
    )
    parser.add_argument("--evaluation-problems", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1, help="1 is what the shipped pair is from")
    arguments = parser.parse_args()
    print(
        make_pair(
            arguments.out,
            evaluation_problems=arguments.evaluation_problems,
            threads=arguments.threads,
        )
    )


if __name__ == "__main__":
    main()
