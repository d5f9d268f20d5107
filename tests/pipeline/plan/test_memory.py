"""What each stage needs of memory is known from configs and headers."""

from typing import Any

import pytest
import torch
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.session import look_at
from tip.stages.models.card import read_card
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.stages.models.size import parameters_of, shape_of

from ..conftest import PAIR, MakeConfig


def planned(config: Any) -> Any:
    return plan_of(look_at(config))


def test_a_plan_loads_no_weights_and_counts_them_from_their_headers(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(model=str(PAIR / "student"))
    card = read_card(settings)
    model = load_model(card, torch.device("cpu"), torch.float32)
    assert shape_of(card).parameters == sum(p.numel() for p in model.model.parameters())

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("tip.stages.holder.load_model", refuse)
    plan = planned(config(score={"mode": "separate", "engine": "vllm"}, rollout={"engine": "vllm"}))
    stages = [need.stage for need in plan.memory]
    assert stages == ["rollout", "score (teacher)", "score (student)", "train"]


def test_what_is_certain_is_weights_and_what_training_keeps_of_them(config: MakeConfig) -> None:
    joint = planned(config()).memory
    apart = planned(config(score={"mode": "separate"})).memory
    student, teacher = (
        parameters_of(read_card(ModelSettings(model=str(PAIR / role)))) or 0
        for role in ("student", "teacher")
    )
    assert {need.stage: need.least for need in (*joint, *apart)} == {
        "rollout": 4 * student,
        "score": 4 * (student + teacher),
        "score (teacher)": 4 * teacher,
        "score (student)": 4 * student,
        "train": 16 * student,
    }
    assert all(need.least < need.bytes for need in (*joint, *apart))


def test_a_joint_scoring_is_planned_with_both_models(config: MakeConfig) -> None:
    sizes = {need.stage: need.bytes for need in planned(config()).memory}
    apart = {n.stage: n.bytes for n in planned(config(score={"mode": "separate"})).memory}
    assert sizes["score"] > apart["score (student)"]
    assert sizes["score"] > apart["score (teacher)"]
