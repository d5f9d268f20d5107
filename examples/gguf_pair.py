"""A real pair of models from one GGUF file: the model, and the same with half of its layers."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def packaged(package: str) -> Path:
    """Return the folder of an installed package, which is not run."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = package.replace("_", "-")
        raise SystemExit(f"{name} is not installed: see the first lines of this script")
    return Path(found.submodule_search_locations[0])


def write_pair(gguf: Path, model_folder: Path, half_folder: Path) -> None:
    """Write the model of a GGUF file and its half, each with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_bos_token = bool(metadata(gguf, "tokenizer.ggml.add_bos_token"))
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # The weights are plain numbers now; what remembers their old form would refuse to save them.
    model.hf_quantizer = None
    del model.config.quantization_config
    save(model, tokenizer, model_folder)
    halve(model)
    save(model, tokenizer, half_folder)


def metadata(gguf: Path, name: str) -> Any:
    """Return what a GGUF file says of itself under a name, None where it says nothing."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field(name)
    return None if field is None else field.contents()


def halve(model: Any) -> None:
    """Keep every other layer, the first and the last included."""
    layers, config = model.model.layers, model.config
    last = len(layers) - 1
    kept = [*range(0, last - 1, 2), last]
    for place, layer in enumerate(kept):
        layers[layer].self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList([layers[layer] for layer in kept])
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):  # which layers look back how far
        config.layer_types = [kinds[layer] for layer in kept]


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a bfloat16 safetensors folder with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(folder, f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
