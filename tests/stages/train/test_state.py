"""A training state gives back every bit, or is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from tip.stages.train.state import load_state, save_state, state_about
from tip.storage.errors import StoreError
from torch import Tensor, nn


class Model(nn.Module):
    """Parameters as a language model has them: a head that may be the embedding."""

    def __init__(self, *, tied: bool, rows: int = 7, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(rows, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, rows, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.embedding(ids)))


def trained(*, tied: bool = False) -> tuple[Model, torch.optim.Optimizer]:
    """Return a model and its optimiser after two steps."""
    model = Model(tied=tied)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for ids in ([1, 2, 3], [4, 5]):
        optimizer.zero_grad()
        model(torch.tensor(ids)).logsumexp(1).sum().backward()
        optimizer.step()
    return model, optimizer


def everything(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = parameter.detach()
        for moment, value in optimizer.state[parameter].items():
            found[f"{name}.{moment}"] = value
    return found


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_masters_and_moments_come_back_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    model, optimizer = trained(tied=tied)
    path = tmp_path / "states" / "state.safetensors"
    save_state(path, model, optimizer, {"key": "k", "step": 2})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = Model(tied=tied, seed=1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1, fused=True)
    assert load_state(path, again, fresh) == {"key": "k", "step": 2}
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert len(expected) == 4 * len(list(model.parameters()))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert state_about(path) == {"key": "k", "step": 2}


def test_a_loaded_state_takes_the_same_next_step(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, optimizer = trained()
    save_state(path, model, optimizer, {})
    again = Model(tied=False, seed=1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1, fused=True)
    load_state(path, again, fresh)
    path.write_bytes(b"\0" * path.stat().st_size)  # what was loaded is no view of the file
    for student, adam in ((model, optimizer), (again, fresh)):
        adam.zero_grad()
        student(torch.tensor([6, 1])).logsumexp(1).sum().backward()
        adam.step()
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_frozen_parameters_are_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, optimizer = trained()
    model.head.weight.requires_grad_(False)
    save_state(path, model, optimizer, {})
    assert not [name for name in load_tensors(path.read_bytes()) if "head" in name]
    again = Model(tied=False, seed=1)
    again.head.weight.requires_grad_(False)
    before = again.head.weight.clone()
    load_state(path, again, None)
    assert torch.equal(again.head.weight, before)
    assert torch.equal(again.norm.weight, model.norm.weight)


def test_a_parameter_without_a_step_has_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model = Model(tied=False)
    save_state(path, model, torch.optim.AdamW(model.parameters()), {})
    again = Model(tied=False, seed=1)
    fresh = torch.optim.AdamW(again.parameters())
    load_state(path, again, fresh)
    assert not any(fresh.state.values())


def test_a_damaged_state_or_one_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(), {})
    whole, tensors = path.read_bytes(), load_tensors(path.read_bytes())
    own = Model(tied=False)
    cases: list[tuple[Callable[[], object], Model]] = [
        (lambda: path.write_bytes(whole), Model(tied=False, rows=8)),
        (lambda: path.write_bytes(whole[:-5]), own),
        (lambda: path.write_bytes(b"garbage"), own),
        (lambda: save_file(tensors, path), own),
        (lambda: save_file({}, path, metadata={"about": "{}"}), own),
        (lambda: save_file(tensors, path, metadata={"about": "{"}), own),
        (path.unlink, own),
    ]
    for damage, model in cases:
        damage()
        with pytest.raises(StoreError, match="not the training state of this model") as it:
            load_state(path, model, None)
        assert "\n" not in str(it.value)
    assert state_about(path) is None
