"""What each stage needs of memory is known from configs and headers."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_model
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
    assert stages == ["rollout", "score (teacher)", "score (student)", "train", "process"]


def test_what_is_certain_is_weights_and_what_training_keeps_of_them(config: MakeConfig) -> None:
    joint = planned(config()).memory
    apart = planned(config(score={"mode": "separate"})).memory
    student, teacher = (
        parameters_of(read_card(ModelSettings(model=str(PAIR / role)))) or 0
        for role in ("student", "teacher")
    )
    stages = [need for need in (*joint, *apart) if need.stage != "process"]
    assert {need.stage: need.least for need in stages} == {
        "rollout": 4 * student,
        "score": 4 * (student + teacher),
        "score (teacher)": 4 * teacher,
        "score (student)": 4 * student,
        "train": 16 * student,
    }
    assert all(need.least < need.bytes for need in stages)


def test_a_joint_scoring_is_planned_with_both_models(config: MakeConfig) -> None:
    sizes = {need.stage: need.bytes for need in planned(config()).memory}
    apart = {n.stage: n.bytes for n in planned(config(score={"mode": "separate"})).memory}
    assert sizes["score"] > apart["score (student)"]
    assert sizes["score"] > apart["score (teacher)"]


def test_what_the_process_itself_holds_is_part_of_every_stage_on_a_cpu(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_held = {}
    for held in (0, 1 << 40):
        monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda held=held: held)
        bytes_held[held] = {need.stage: need.bytes for need in planned(config()).memory}
    assert all(bytes_held[1 << 40][s] - bytes_held[0][s] == 1 << 40 for s in bytes_held[0])


def test_an_evaluation_that_measures_divergence_leaves_the_teacher_beside_the_rollouts(
    config: MakeConfig, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda: 0)
    asked = {"source": str(problems / "held_out.jsonl"), "template": "raw", "max_tokens": 8}
    plans = [planned(config(evaluate=asked | {"reverse_kl": kl})).memory for kl in (False, True)]
    alone, beside = ({need.stage: need.bytes for need in plan} for plan in plans)
    teacher = parameters_of(read_card(ModelSettings(model=str(PAIR / "teacher"))))
    assert beside["rollout"] - alone["rollout"] == 4 * teacher
    assert beside["evaluate"] >= beside["score"]


def test_checkpointing_keeps_what_goes_into_each_layer_and_a_layer_or_so(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda: 0)
    shape = {"hidden_size": 64, "intermediate_size": 256, "vocabulary": 36}

    def above(layers: int, checkpointing: bool) -> float:
        folder = tmp_path / f"{layers}"
        if not folder.exists():
            write_model(folder, num_hidden_layers=layers, **shape)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(PAIR / "student" / name, folder / name)
        settings = {"batch_tokens": 4096, "activation_checkpointing": checkpointing}
        models = {"model": str(folder)}
        needs = planned(config(student=models, teacher=models, train=settings)).memory
        (train,) = [need.bytes for need in needs if need.stage == "train"]
        return train - 16 * parameters_of(read_card(ModelSettings(**models)))

    a_layer = [(above(12, on) - above(2, on)) / 10 for on in (True, False)]
    tokens = a_layer[0] / (4 * 64)  # what goes into a layer, of each token
    assert tokens == pytest.approx(round(tokens))
    assert a_layer[1] > 20 * a_layer[0]
