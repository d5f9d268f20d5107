"""Students of SmolLM2 at other distances from it than its half: without six layers, with noise.

    python benchmarks/evidence/students.py models

Writes `models/smollm2-24` (24 of the 30 layers: every fifth is left out) and `models/smollm2-noise`
(every matrix of the layers with noise of 12 % of its own spread).
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NOISE = 0.12


def main() -> None:
    """Write both students."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="folder with the pair (`make models`)")
    write(parser.parse_args().models)


def write(models: Path) -> None:
    """Write both students beside their teacher, where they are not there yet."""
    for name, change in (("smollm2-24", without_layers), ("smollm2-noise", with_noise)):
        folder, source = models / name, models / "smollm2-135m"
        if (folder / "model.safetensors").is_file():
            continue
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        change(model)
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def without_layers(model: torch.nn.Module) -> None:
    """Leave every fifth layer out."""
    kept = [layer for place, layer in enumerate(model.model.layers) if place % 5 != 3]
    for place, layer in enumerate(kept):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)


@torch.no_grad()
def with_noise(model: torch.nn.Module) -> None:
    """Add noise to every matrix of the layers."""
    noise = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        for matrix in (p for p in layer.parameters() if p.ndim == 2):
            spread = NOISE * matrix.std()
            matrix.add_(spread * torch.randn(matrix.shape, generator=noise))


if __name__ == "__main__":
    main()
