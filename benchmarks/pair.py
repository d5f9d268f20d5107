"""The models of a benchmark, and the products that a head cannot do without."""

from pathlib import Path

import torch
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings


def load(folder: Path | str) -> LanguageModel:
    """Return a model in float32 on the CPU."""
    return load_model(ModelSettings(model=str(folder)), torch.device("cpu"), torch.float32)


def three_products(student: LanguageModel, rows: int) -> None:
    """Run the three matrix products that selected rows and the head cannot do without."""
    weight = student.head.weight.detach()
    states = torch.ones(rows, weight.shape[1])
    logits = states @ weight.T
    _ = logits @ weight
    _ = logits.T @ states
