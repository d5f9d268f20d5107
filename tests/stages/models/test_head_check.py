"""A model is let in when its logits are its head's, scaled and capped as its config says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import refusal
from safetensors.torch import load_file, save_file
from tiny import load, write_model
from tip.stages.models import language_model
from tip.stages.models.head import LogitMap


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_compute_type_passes(original: Path, dtype: torch.dtype) -> None:
    model = load(original, dtype)
    assert model.head.weight.dtype == dtype
    logits = model.head.logits(model.hidden(torch.tensor([[3, 4]]))[0])
    assert logits.dtype == torch.float32


def test_the_check_leaves_the_model_as_it_was(original: Path) -> None:
    model = load(original)
    assert not model.model.base_model._forward_hooks
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(
        model.model(input_ids=ids).logits[0], model.head.logits(model.hidden(ids)[0])
    )


MAPS = [
    ("gemma2", {}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("cohere", {"logit_scale": 0.5}),
    ("granite", {"logits_scaling": 8.0}),
    ("minicpm3", {}),
]


@pytest.mark.parametrize("spread", [0.3, 0.02], ids=["large logits", "small logits"])
@pytest.mark.parametrize(("architecture", "config"), MAPS)
def test_logits_that_are_scaled_or_capped_are_the_models_own(
    tmp_path: Path, architecture: str, config: dict[str, Any], spread: float
) -> None:
    model = load(write_model(tmp_path, architecture, spread=spread, **config))
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(
        model.model(input_ids=ids).logits[0], model.head.logits(model.hidden(ids)[0])
    )


@pytest.mark.parametrize("wrong", [LogitMap(), LogitMap(cap=31.0), LogitMap(1.01, 30.0)], ids=str)
def test_a_map_that_the_config_does_not_tell_is_noticed_however_small_logits_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: LogitMap
) -> None:
    monkeypatch.setattr(language_model, "logit_map", lambda _: wrong)
    for spread in (0.3, 0.02):
        folder = write_model(tmp_path / str(spread), "gemma2", spread=spread)
        assert "its logits are not its head's" in refusal(folder)


def test_a_body_whose_states_are_changed_before_the_head_is_refused(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = language_model.LanguageModel.hidden
    monkeypatch.setattr(
        language_model.LanguageModel, "hidden", lambda self, ids: 1.01 * plain(self, ids)
    )
    assert "its head is not given the last hidden state" in refusal(original)


def test_a_body_that_hides_its_decoder_is_welcome(tmp_path: Path) -> None:
    assert load(write_model(tmp_path, "opt")).vocabulary == 60


def test_a_weight_that_is_not_a_number_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][7, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinity" in refusal(folder)
