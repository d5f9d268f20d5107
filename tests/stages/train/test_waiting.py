"""A training step on a GPU waits once, and moves the student as it does on a CPU."""

from typing import Any

import pytest
import torch
from tiny_training import ALL, Round, distance, train_settings, trainable, weights
from tip.stages.models.language_model import LanguageModel
from tip.stages.train.optimizers import make_optimizer
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import SelectiveStep
from tip.stages.train.totals import Totals
from tip.stages.train.train import _step, _trainable
from tip.stages.train.worlds.alone import Alone
from waits import Waits, on_gpu, played_gpu


def stepped(
    student: LanguageModel, made: Round, settings: TrainSettings, waits: Waits | None = None
) -> Totals:
    """Take two steps; of the waits those of the second are left."""
    _trainable(student, settings)
    optimizer, totals = make_optimizer(student.model, settings), Totals()
    step = SelectiveStep(student, settings, torch.float32)
    for _ in range(2):
        if waits is not None:
            waits.clear()
        _step(Alone(), step, optimizer, made.data, ALL, settings, totals)
    return totals


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tail": "residual", "clip_token": 1.0},
        {"activation_checkpointing": True, "loss": "jsd"},
    ],
    ids=str,
)
def test_a_step_of_several_micro_batches_waits_once(untied: Round, changes: dict[str, Any]) -> None:
    settings = train_settings(**changes)
    on_cpu, there = trainable(untied.student), trainable(untied.student)
    expected = stepped(on_cpu, untied, settings)
    with played_gpu() as waits:
        found = stepped(on_gpu(there), untied, settings, waits)
        assert waits.total == 1, waits.places
        moved = {name: value.cpu() for name, value in weights(there).items()}
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert (found.trained_tokens, found.body_tokens) == (
        expected.trained_tokens,
        expected.body_tokens,
    )
    assert distance(moved, weights(on_cpu)) < 1e-3  # Adam's first steps are signs of gradients
