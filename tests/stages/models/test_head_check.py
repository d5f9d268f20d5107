"""A model is let in when its logits are a plain linear head of its last hidden state."""

from pathlib import Path

import pytest
import torch
from model_folders import refusal
from safetensors.torch import load_file, save_file
from tiny import load, write_model


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


@pytest.mark.parametrize("spread", [0.3, 0.02], ids=["large logits", "small logits"])
def test_soft_capped_logits_are_refused_however_small_they_are(
    tmp_path: Path, spread: float
) -> None:
    assert "soft-capped" in refusal(write_model(tmp_path, "gemma2", spread=spread))


def test_the_same_architecture_without_a_cap_is_welcome(tmp_path: Path) -> None:
    assert load(write_model(tmp_path, "gemma2", final_logit_softcapping=None)).vocabulary == 60


@pytest.mark.parametrize("scale", [0.5, 1.01])
def test_scaled_logits_are_refused(tmp_path: Path, scale: float) -> None:
    folder = write_model(tmp_path, "cohere", logit_scale=scale)
    assert "scaled or soft-capped" in refusal(folder)


def test_a_weight_that_is_not_a_number_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][7, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinity" in refusal(folder)
