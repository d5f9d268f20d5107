"""Adapters are trained beside a base that stays, and merged they are a plain model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, load
from tiny_training import (
    ALL,
    Round,
    denominator,
    distance,
    gradients,
    same_bits,
    step_of,
    train_settings,
    weights,
)
from tip.stages.models.language_model import LanguageModel
from tip.stages.train.lora import adapt, lora_layers, lora_parameters, merge, require_lora
from tip.stages.train.settings import LoraSettings
from tip.stages.train.train import accumulate, train
from tip.stages.train.worlds.alone import Alone
from tip.storage.errors import ConfigError, ModelError
from torch import Tensor

RATES = (1e-2, 8e-3, 6e-3)


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    return request.getfixturevalue(request.param)


def adapted(made: Round, dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
    """Return a student whose adapters already add something."""
    settings = LoraSettings(**{"rank": 3, "alpha": 6.0} | changes)
    student = adapt(load(made.student, dtype), settings, 0, CPU)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return student


def logits(student: LanguageModel) -> Tensor:
    with torch.no_grad():
        return student.model(input_ids=torch.arange(9)[None], use_cache=False).logits


def loss_of(student: LanguageModel, made: Round) -> float:
    settings = train_settings()
    due = denominator(made.data, ALL)
    return accumulate(Alone(), step_of(student, settings), made.data, ALL, settings, due).read()[0]


def test_an_adapter_changes_nothing_before_its_first_step(made: Round) -> None:
    student = adapt(load(made.student), LoraSettings(rank=3), 0, CPU)
    assert torch.equal(logits(student), logits(load(made.student)))
    wanted = [n for n, p in student.model.named_parameters() if p.requires_grad]
    assert wanted
    assert all(".lora_" in name for name in wanted)


def test_gradients_of_adapters_are_the_slopes_of_the_loss(made: Round) -> None:
    student = adapted(made, torch.float64)
    loss_of(student, made)
    found, step = {n: g.clone() for n, g in gradients(student).items()}, 3e-3
    assert all(".lora_" in name for name in found), "the base has none"
    named = dict(student.model.named_parameters())
    for name, gradient in found.items():
        place = int(gradient.abs().argmax())
        flat = named[name].data.view(-1)
        flat[place] += step
        above = loss_of(student, made)
        flat[place] -= 2 * step
        slope = (above - loss_of(student, made)) / (2 * step)
        flat[place] += step
        assert slope == pytest.approx(float(gradient.view(-1)[place]), rel=0.02, abs=1e-3), (
            "norms compute in float32, so a smaller step shows their rounding"
        )


def test_float32_gradients_are_those_of_float64(made: Round) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        student = adapted(made, dtype)
        loss_of(student, made)
        found.append(gradients(student))
    assert distance(*found) < 1e-5


def test_merged_it_is_a_plain_model_with_the_same_logits(made: Round) -> None:
    student = adapted(made)
    expected, names = logits(student), weights(load(made.student)).keys()
    whole = merge(student)
    assert weights(whole).keys() == names
    assert (logits(whole) - expected).abs().max() < 1e-5
    assert (expected - logits(load(made.student))).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_in_4_bits_the_merge_is_into_the_dequantised_base(untied: Round) -> None:
    student = adapted(untied, bits=4)
    expected = logits(student)
    assert any(p.dtype == torch.uint8 for p in student.model.parameters())
    loss_of(student, untied)
    assert gradients(student)
    whole = merge(student)
    assert weights(whole).keys() == weights(load(untied.student)).keys()
    assert (logits(whole) - expected).abs().max() < 1e-5


def run(
    made: Round, folder: Path, lora: LoraSettings, seed: int = 0, **changes: Any
) -> dict[str, Tensor]:
    student = adapt(load(made.student), lora, seed, CPU)
    usual: dict[str, Any] = {"state": folder / "state", "snapshot": folder / "snapshot"}
    optimizer = changes.pop("optimizer", "adamw")
    train(
        student,
        made.data,
        train_settings(lora=lora, optimizer=optimizer, snapshot_seconds=0),
        RATES,
        **{"autocast": torch.float32, "seed": seed, "start": None, "key": "k"} | usual | changes,
    )
    return {n: p.detach() for n, p in student.model.named_parameters()}


class _Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_killed_training_goes_on_to_the_same_bits(
    untied: Round, tmp_path: Path, optimizer: str, dropout: float
) -> None:
    lora = LoraSettings(rank=512, alpha=8.0, dropout=dropout)  # 8 bits begin at 4096 numbers
    whole = run(untied, tmp_path / "whole", lora, optimizer=optimizer)
    ticks: list[int] = []

    def kill(done: int) -> None:
        ticks.append(done)
        if len(ticks) == 3:
            raise _Killed

    with pytest.raises(_Killed):
        run(untied, tmp_path / "cut", lora, optimizer=optimizer, tick=kill)
    again = run(untied, tmp_path / "cut", lora, optimizer=optimizer)
    assert same_bits(again, whole)
    begun = weights(load(untied.student))
    moved = {n.replace(".base_layer", ""): p for n, p in whole.items() if ".lora_" not in n}
    assert same_bits(moved, begun), "the base stays"


def test_another_optimisers_state_is_no_start(untied: Round, tmp_path: Path) -> None:
    lora = LoraSettings(rank=3)
    run(untied, tmp_path / "a", lora)
    with pytest.raises(OSError, match="of another optimiser"):
        run(untied, tmp_path / "b", lora, optimizer="adamw8bit", start=tmp_path / "a" / "state")


def test_the_first_numbers_are_those_of_the_seed(untied: Round) -> None:
    def first(seed: int) -> dict[str, Tensor]:
        student = adapt(load(untied.student), LoraSettings(rank=3), seed, CPU)
        return {n: p.detach() for n, p in student.model.named_parameters() if "lora_A" in n}

    assert same_bits(first(1), first(1))
    assert not same_bits(first(1), first(2))


def test_the_plan_counts_what_there_is(made: Round) -> None:
    settings, student = LoraSettings(rank=3), load(made.student)
    expected = lora_parameters(student.model, student.card, settings)
    student = adapt(student, settings, 0, CPU)
    assert expected == sum(p.numel() for p in student.model.parameters() if p.requires_grad)


def test_targets_are_names_or_ends_of_names_of_the_body(untied: Round) -> None:
    student = load(untied.student)
    settings = LoraSettings(targets=("q_proj", "layers.0.mlp.up_proj"))
    found = lora_layers(student.model, student.card, settings)
    assert len([n for n in found if n.endswith("q_proj")]) == len(found) - 1
    assert not any("lm_head" in n for n in lora_layers(student.model, student.card, LoraSettings()))
    for wrong in ("query", "lm_head", "embed_tokens"):
        with pytest.raises(ModelError, match=rf"'{wrong}'.*there are down_proj, .*q_proj"):
            lora_layers(student.model, student.card, replace_targets(wrong))


def replace_targets(name: str) -> LoraSettings:
    return LoraSettings(targets=(name,))


def test_4_bits_without_a_gpu_and_a_missing_library_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"bits = 4 needs a GPU"):
        require_lora(LoraSettings(bits=4), CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs peft.*tip-opd\[lora\]"):
        require_lora(LoraSettings(), CPU)
