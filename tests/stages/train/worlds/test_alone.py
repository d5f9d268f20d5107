"""A process that trains alone does all the work, and its numbers are the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tip.stages.train.worlds.alone import Alone
from torch import nn


def stepped(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Return a small model after a step of its optimiser, with a gradient of norm 5 for seed 0."""
    torch.manual_seed(seed)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, seed]]), torch.tensor([4.0 + seed])
    optimizer.step()
    return model, optimizer


def test_all_micro_batches_are_its_own_and_its_numbers_are_the_totals() -> None:
    batches = [np.array([1, 2]), np.array([3])]
    assert (Alone.rank, Alone.size) == (0, 1)
    assert [b.tolist() for b in Alone().share(batches, np.arange(4))] == [[1, 2], [3]]
    assert Alone().total(torch.tensor([1.5, 2.0])).tolist() == [1.5, 2.0]


@pytest.mark.parametrize(("norm", "left"), [(10.0, 5.0), (2.0, 2.0)])
def test_gradients_beyond_the_norm_are_scaled_to_it_and_the_norm_before_is_returned(
    norm: float, left: float
) -> None:
    model, _ = stepped(0)
    assert Alone().clip(model, norm).item() == pytest.approx(5)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert gradient.norm().item() == pytest.approx(left, rel=1e-5)


def test_what_it_saves_it_loads_and_where_nothing_lies_it_knows_nothing(tmp_path: Path) -> None:
    (model, optimizer), (other, fresh) = stepped(0), stepped(1)
    alone, path = Alone(), tmp_path / "state"
    assert alone.about(path) is None
    alone.save(path, model, optimizer, {"step": 3})
    assert alone.about(path) == alone.load(path, other, fresh) == {"step": 3}
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(fresh.state[other.bias]["exp_avg"], optimizer.state[model.bias]["exp_avg"])
