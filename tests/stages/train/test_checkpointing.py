"""Activation checkpointing changes memory alone: no family's dropout or jitter comes alive."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import load, write_model
from tip.stages.models.language_model import LanguageModel
from tip.stages.train.checkpointing import checkpoint_activations, refuse_noise
from tip.storage.errors import ModelError

IDS = np.array([5, 9, 3, 7, 8, 2, 6])
NOISY: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_dropout": 0.5}),
    ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    ("gpt_neox", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
    ("opt", {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}),
    ("bloom", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    ("falcon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    ("starcoder2", {"residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5}),
    ("mixtral", {"router_jitter_noise": 0.5}),
]


def gradients(model: LanguageModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return hidden states and the gradients of a function of them."""
    model.model.requires_grad_(True)
    hidden = model.hidden(torch.from_numpy(IDS)[None])
    hidden.sin().sum().backward()
    found = [p.grad for p in model.model.base_model.parameters() if p.grad is not None]
    return hidden.detach(), found


@pytest.mark.parametrize(("architecture", "noise"), NOISY, ids=[name for name, _ in NOISY])
def test_it_computes_what_a_model_without_it_does(
    tmp_path: Path, architecture: str, noise: dict[str, Any]
) -> None:
    folder = write_model(tmp_path, architecture, **noise)
    states, expected = gradients(load(folder))
    model = load(folder)
    checkpoint_activations(model)
    refuse_noise(model, IDS)
    layers = [m for m in model.model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert layers
    assert all(layer.training for layer in layers)
    found, again = gradients(model)
    assert torch.equal(found, states)
    assert len(again) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_a_student_that_computes_with_noise_is_refused(tmp_path: Path) -> None:
    model = load(write_model(tmp_path, "gpt2", resid_pdrop=0.5))
    model.model.train()
    with pytest.raises(ModelError, match="others each time"):
        refuse_noise(model, IDS)


def test_states_that_are_not_finite_are_no_noise(tmp_path: Path) -> None:
    model = load(write_model(tmp_path))
    with torch.no_grad():
        model.model.get_input_embeddings().weight[IDS[0]] = torch.nan
    refuse_noise(model, IDS)


def test_an_architecture_that_has_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(write_model(tmp_path))
    monkeypatch.setattr(type(model.model), "supports_gradient_checkpointing", False)
    with pytest.raises(ModelError, match="LlamaForCausalLM has no activation checkpointing"):
        checkpoint_activations(model)
