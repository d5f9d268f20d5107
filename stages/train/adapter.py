"""Trained adapters alone, in the format of peft: what `PeftModel.from_pretrained` reads.

Written from a training state, whose numbers are the float32 masters. Beside the first student they
are what the run's merged checkpoint was made of.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...storage.errors import ModelError, StoreError
from ..boundary import one_line
from ..models.card import ModelCard
from ..models.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..models.load import load_on_meta
from ..models.quiet import quiet
from ..models.tensors import write_tensors
from .lora import ADAPTER, all_conv1d, lora_layers
from .settings import LoraSettings
from .state import masters_of


def write_adapter(
    folder: Path, state: Path, card: ModelCard, settings: LoraSettings, base: str, revision: Any
) -> None:
    """Write the adapters of a training state into a folder: their config, their weights.

    card: of any model of the student's architecture. base, revision: where whoever loads the
    adapters finds the first student. Raises `StoreError` for a state of other adapters.
    """
    with quiet():
        from peft import LoraConfig  # heavy, an extra

    model = load_on_meta(card)
    layers = lora_layers(model, card, settings)
    whole = settings.alpha.is_integer()
    with one_line(lambda reason: ModelError(f"{folder}: peft refuses the adapter ({reason})")):
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=int(settings.alpha) if whole else settings.alpha,  # type: ignore[arg-type]
            target_modules=_targets(model, layers),
            lora_dropout=settings.dropout,
            fan_in_fan_out=all_conv1d(model, list(layers)),
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
            revision=revision,
            inference_mode=True,
        )
    (folder / ADAPTER_CONFIG).write_text(
        json.dumps(config.to_dict(), indent=2, sort_keys=True, default=sorted)
    )
    write_tensors(
        folder / ADAPTER_WEIGHTS, _tensors(state, layers, settings.rank), {"format": "pt"}
    )


def _targets(model: Any, layers: dict[str, tuple[int, int]]) -> list[str]:
    """Return the last names of the layers where they name no other; else whole names."""
    last = {name.rpartition(".")[2] for name in layers}
    named = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last if named == layers.keys() else layers)


def _tensors(state: Path, layers: dict[str, tuple[int, int]], rank: int) -> dict[str, Tensor]:
    """Return a state's adapters by the names that peft's files have."""
    masters = masters_of(state)
    shapes = {}
    for name, (inputs, outputs) in layers.items():
        shapes[f"{name}.lora_A.{ADAPTER}.weight"] = (rank, inputs)
        shapes[f"{name}.lora_B.{ADAPTER}.weight"] = (outputs, rank)
    if shapes != {name: tuple(tensor.shape) for name, tensor in masters.items()}:
        raise StoreError(
            f"{state}: not the training state of adapters of rank {rank} beside "
            f"{len(layers)} layers; delete it, and that round is trained again from stored signals"
        )
    return {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": tensor
        for name, tensor in masters.items()
    }
