"""Adapter folders as peft writes them, over tiny models, and the one line they are refused with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tip.stages.models.card import ModelCard, read_card
from tip.stages.models.merged import check_adapter
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import TipError
from torch import Tensor
from transformers import AutoModelForCausalLM


def write_adapter(
    folder: Path, base: Path, *, seed: int = 0, name: str | None = None, **changes: Any
) -> Path:
    """Write a LoRA adapter all of whose numbers were trained.

    name: base_model_name_or_path; the base's folder by default.
    """
    usual = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]}
    config = LoraConfig(**{"task_type": "CAUSAL_LM"} | usual | changes)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    change_adapter(folder, base_model_name_or_path=str(base) if name is None else name)
    return folder


def change_adapter(folder: Path, **fields: Any) -> None:
    """Set fields of the config in an adapter's folder."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def card(folder: Path, **settings: Any) -> ModelCard:
    """Return the card of a model folder."""
    return read_card(ModelSettings(model=str(folder), **settings))


def logits(model: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the logits of a few known tokens."""
    with torch.no_grad():
        return model.to(dtype).eval()(input_ids=torch.arange(2, 30)[None]).logits


def merged_by_peft(base: Path, folder: Path) -> Tensor:
    """Return the logits of peft's own merge in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, folder).merge_and_unload())


def refusal(folder: Path) -> str:
    """Return the one line that an adapter is refused with before any work."""
    with pytest.raises(TipError) as it:
        check_adapter(card(folder))
    assert "\n" not in str(it.value)
    assert str(folder) in str(it.value)
    return str(it.value)
