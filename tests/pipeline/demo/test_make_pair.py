"""How the built-in pair is trained: what its loss sees, how fast it learns, what it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tip.pipeline.demo import make_pair, task
from tip.pipeline.demo.make_pair import (
    FLOOR_LR,
    IGNORED,
    PEAK_LR,
    STUDENT,
    TEACHER,
    WARMUP_STEPS,
    Recipe,
    build_examples,
    learning_rate,
)

START = task.PROMPT_TOKENS


def small(recipe: Recipe) -> Recipe:
    return replace(recipe, problems=200, steps=2)


def test_a_label_is_its_own_token_and_prompt_and_padding_have_none() -> None:
    ids, labels = build_examples(small(STUDENT))
    assert ids.shape == labels.shape == (200, START + task.MAX_RESPONSE_TOKENS)
    assert (labels[:, :START] == IGNORED).all()
    given = labels != IGNORED
    assert (labels[given] == ids[given]).all()
    ends = (ids == task.EOS_ID).int().argmax(1)
    assert (given.sum(1) == ends - START + 1).all()


def test_only_the_teachers_loss_leaves_deliberate_errors_out() -> None:
    ids, labels = build_examples(small(TEACHER))
    responses = ids[:, START:] != task.PAD_ID
    masked = (labels[:, START:] == IGNORED) & responses
    assert 0 < masked.sum() < responses.sum() / 5
    _, whole = build_examples(replace(small(TEACHER), masks_errors=False))
    assert ((whole[:, START:] != IGNORED) == responses).all()


def test_the_learning_rate_rises_then_falls_to_its_floor() -> None:
    rates = [learning_rate(step, 300) for step in range(301)]
    assert rates[WARMUP_STEPS - 1] == rates[WARMUP_STEPS] == max(rates) == PEAK_LR
    assert rates[:WARMUP_STEPS] == sorted(rates[:WARMUP_STEPS])
    assert rates[WARMUP_STEPS:] == sorted(rates[WARMUP_STEPS:], reverse=True)
    assert rates[-1] == pytest.approx(PEAK_LR * FLOOR_LR)


def test_a_pair_is_written_in_bf16_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recipe in ("TEACHER", "STUDENT"):
        monkeypatch.setattr(make_pair, recipe, small(getattr(make_pair, recipe)))
    text = make_pair.make_pair(tmp_path, evaluation_problems=4, threads=1)
    assert (tmp_path / "README.md").read_text() == text
    for name in ("teacher", "student"):
        assert f"| {name} |" in text
        weights = load_file(tmp_path / name / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        assert (tmp_path / name / "tokenizer.json").is_file()
