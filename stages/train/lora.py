"""LoRA: small matrices beside a frozen base, by peft, injected in place.

So body and head stay what they are, and the step trains what wants a gradient. What everybody else
sees is the merged model: base + scaling B A, in the base's own layers. Source: arXiv:2106.09685;
with a base of 4 bits (NF4), arXiv:2305.14314.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...storage.errors import ConfigError, ModelError
from ..boundary import one_line
from ..models.card import ModelCard
from ..models.language_model import LanguageModel
from ..models.quiet import quiet
from .settings import ALL_LINEAR, LoraSettings

ADAPTER = "default"
"""Peft's name of the only adapter, in the names of its parameters."""

_SHOWN = 12  # names of layers in a message


def require_lora(settings: LoraSettings, device: torch.device) -> None:
    """Raise `ConfigError` where a library or a device that LoRA needs is not there."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "train.lora needs peft, which is not installed: pip install 'tip-opd[lora]', or leave "
            "train.lora out"
        )
    if settings.bits is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train.lora.bits = 4 needs bitsandbytes, which is not installed: "
            "pip install 'tip-opd[bitsandbytes]', or leave train.lora.bits out"
        )
    if device.type != "cuda":
        raise ConfigError(
            f"train.lora.bits = 4 needs a GPU, and device is {device.type}: leave train.lora.bits "
            "out, or set device = 'cuda' on a machine that has one"
        )


def lora_layers(model: Any, card: ModelCard, settings: LoraSettings) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each layer that gets an adapter, by its name in the model.

    The model may be without weights. The head and the embedding are no targets: only selected
    tokens meet the head. Raises `ModelError` for a target that names none, with those there are.
    """
    from transformers.pytorch_utils import Conv1D  # heavy

    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    found: dict[str, nn.Module] = {}
    for target in settings.targets:
        named = {
            name: module
            for name, module in linear.items()
            if target in (ALL_LINEAR, name) or name.endswith(f".{target}")
        }
        if not named:
            names = sorted({name.rpartition(".")[2] for name in linear})
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ModelError(
                f"{card.folder}: train.lora.targets names {target!r}, and no linear layer of the "
                f"body is called so: there are {', '.join(names[:_SHOWN])}{more}, and 'all-linear'"
            )
        found |= named
    return {name: _shape(found[name]) for name in linear if name in found}


def lora_parameters(model: Any, card: ModelCard, settings: LoraSettings) -> int:
    """Return how many numbers the adapters hold. The model may be without weights."""
    layers = lora_layers(model, card, settings).values()
    return settings.rank * sum(inputs + outputs for inputs, outputs in layers)


def adapt(
    student: LanguageModel, settings: LoraSettings, seed: int, device: torch.device
) -> LanguageModel:
    """Return the student on a device with adapters, which alone want gradients, beside its layers.

    The model is changed in place. seed: of the adapters' first numbers; B is 0, so that nothing
    differs from the base before the first step.
    """
    with quiet():
        from peft import LoraConfig, inject_adapter_in_model  # heavy, an extra

    model = student.model
    names = list(lora_layers(model, student.card, settings))
    if settings.bits == 4:
        _quantise(model, names, device)
    model.to(device)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        target_modules=names,
        lora_dropout=settings.dropout,
        fan_in_fan_out=all_conv1d(model, names),
    )

    def failed(reason: str) -> ModelError:
        return ModelError(f"{student.card.folder}: peft cannot put adapters into it ({reason})")

    with one_line(failed), quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % (1 << 63))
        inject_adapter_in_model(config, model, ADAPTER)
    model.eval()
    for module in model.modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            module.training = True  # else a CPU packs it for inference, and it is no base to merge
    return replace(student, device=device)


@contextmanager
def adapter_dropout(model: nn.Module, seed: tuple[int, ...]) -> Iterator[None]:
    """Let adapters drop inputs inside the block, by noise of a seed alone; none where none do.

    What is dropped depends on the micro-batches, so with dropout their size is no mere rounding.
    """
    places = [m for n, m in model.named_modules() if ".lora_dropout." in n and _drops(m)]
    if not places:
        yield
        return
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(hash(seed) % (1 << 63))  # of whole numbers alone: the same everywhere
        for place in places:
            place.train()
        try:
            yield
        finally:
            for place in places:
                place.eval()


@torch.no_grad()
def merge(student: LanguageModel) -> LanguageModel:
    """Return the student without adapters: what they add is in its own layers, float32.

    Changed in place. A base of 4 bits is dequantised, and the model then is on the host: as float32
    numbers it may be larger than what it was trained on.
    """
    from peft.tuners.lora import LoraLayer

    model, device = student.model, student.device
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in layers.items():
        base: Any = layer.get_base_layer()
        delta = layer.get_delta_weight(ADAPTER)  # type: ignore[operator]
        if hasattr(base.weight, "quant_state"):
            device = torch.device("cpu")
            base = _dequantised(base)
        base.weight.data.add_(delta.to(base.weight))
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, base)
    for left in ("peft_config", "is_loaded_in_4bit"):
        if hasattr(model, left):
            delattr(model, left)
    model.to(device)
    return replace(student, device=device)


def all_conv1d(model: Any, names: list[str]) -> bool:
    """Tell whether all these layers hold their matrices the other way round, as GPT-2's do."""
    return not any(isinstance(model.get_submodule(name), nn.Linear) for name in names)


def _quantise(model: Any, names: list[str], device: torch.device) -> None:
    """Hold layers in 4 bits, one after the other, so that a device never holds them whole."""
    import bitsandbytes

    bnb: Any = bitsandbytes.nn

    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            continue
        small = bnb.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.float32,
            quant_type="nf4",
            device="meta",
        )
        small.weight = bnb.Params4bit(layer.weight.data, quant_type="nf4", module=small)
        small.bias = layer.bias
        small.requires_grad_(False)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, small.to(device))
    model.is_loaded_in_4bit = True  # where peft looks


def _dequantised(layer: Any) -> nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().cpu(), requires_grad=False)
    return plain.eval()


def _shape(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    inputs, outputs = layer.weight.shape  # transformers' Conv1D has them the other way round
    return inputs, outputs


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.p > 0
