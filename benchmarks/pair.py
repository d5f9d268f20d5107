"""The models of a benchmark, and the products that a head cannot do without."""

from pathlib import Path

import torch
from tip.stages.models.card import ModelCard, read_card
from tip.stages.models.cpu.process import set_up
from tip.stages.models.cpu.settings import CpuSettings
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings


def load(folder: Path | str) -> LanguageModel:
    """Return a model in float32 on the CPU."""
    cpu = torch.device("cpu")
    attention = set_up(cpu, 0, CpuSettings())  # as a run does
    return load_model(card(folder), cpu, torch.float32, attention=attention)


def card(folder: Path | str) -> ModelCard:
    """Return the card of a folder."""
    return read_card(ModelSettings(model=str(folder)))


def three_products(student: LanguageModel, rows: int) -> None:
    """Run the three matrix products that selected rows and the head cannot do without."""
    weight = student.head.weight.detach()
    states = torch.ones(rows, weight.shape[1])
    logits = states @ weight.T
    _ = logits @ weight
    _ = logits.T @ states
