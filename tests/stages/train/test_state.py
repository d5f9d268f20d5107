"""A training state gives back every bit, or is refused."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from tip.stages.train.state import FILE, drop_state, load_state, save_state, state_about
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
    path = tmp_path / "states" / "key"
    save_state(path, model, optimizer, {"key": "k", "step": 2})
    assert [p.name for p in path.iterdir()] == [FILE]
    again = Model(tied=tied, seed=1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1, fused=True)
    assert load_state(path, again, fresh) == {"key": "k", "step": 2}
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert len(expected) == 4 * len(list(model.parameters()))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert state_about(path) == {"key": "k", "step": 2}


def test_a_loaded_state_takes_the_same_next_step(tmp_path: Path) -> None:
    path = tmp_path / "state"
    model, optimizer = trained()
    save_state(path, model, optimizer, {})
    again = Model(tied=False, seed=1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1, fused=True)
    load_state(path, again, fresh)
    file = path / FILE
    file.write_bytes(b"\0" * file.stat().st_size)  # what was loaded is no view of the file
    for student, adam in ((model, optimizer), (again, fresh)):
        adam.zero_grad()
        student(torch.tensor([6, 1])).logsumexp(1).sum().backward()
        adam.step()
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_frozen_parameters_are_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    model, optimizer = trained()
    model.head.weight.requires_grad_(False)
    save_state(path, model, optimizer, {})
    assert not [name for name in load_tensors((path / FILE).read_bytes()) if "head" in name]
    again = Model(tied=False, seed=1)
    again.head.weight.requires_grad_(False)
    before = again.head.weight.clone()
    load_state(path, again, None)
    assert torch.equal(again.head.weight, before)
    assert torch.equal(again.norm.weight, model.norm.weight)


def test_a_parameter_without_a_step_has_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "state"
    model = Model(tied=False)
    save_state(path, model, torch.optim.AdamW(model.parameters()), {})
    again = Model(tied=False, seed=1)
    fresh = torch.optim.AdamW(again.parameters())
    load_state(path, again, fresh)
    assert not any(fresh.state.values())


def test_a_damaged_state_or_one_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, *trained(), {})
    file = path / FILE
    whole, tensors = file.read_bytes(), load_tensors(file.read_bytes())
    own = Model(tied=False)
    cases: list[tuple[Callable[[], object], Model]] = [
        (lambda: file.write_bytes(whole), Model(tied=False, rows=8)),
        (lambda: file.write_bytes(whole[:-5]), own),
        (lambda: file.write_bytes(b"garbage"), own),
        (lambda: save_file(tensors, file), own),
        (lambda: save_file({}, file, metadata={"about": "{}"}), own),
        (lambda: save_file(tensors, file, metadata={"about": "{"}), own),
        (file.unlink, own),
    ]
    for damage, model in cases:
        damage()
        with pytest.raises(StoreError, match="not the training state that was written here") as it:
            load_state(path, model, None)
        assert "\n" not in str(it.value)
    assert state_about(path) is None


def test_one_flipped_bit_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, *trained(), {"key": "k", "totals": {"loss": 0.25}})
    file, own = path / FILE, Model(tied=False, seed=1)
    before = {n: p.detach().clone() for n, p in own.named_parameters()}
    whole, refused = file.read_bytes(), 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with contextlib.suppress(StoreError):
            load_state(path, own, None)
            pytest.fail(f"byte {place} of {len(whole)} was changed and nobody noticed")
        refused += 1
        assert all(torch.equal(p, before[n]) for n, p in own.named_parameters())
    assert refused > 100


def test_a_file_alone_is_read_as_older_versions_wrote_it(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path / "new", model, optimizer, {"key": "k"})
    older = tmp_path / "k.safetensors"
    (tmp_path / "new" / FILE).rename(older)
    again = Model(tied=False, seed=1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.1, fused=True)
    assert load_state(older, again, fresh) == {"key": "k"}
    found, expected = everything(again, fresh), everything(model, optimizer)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_a_state_can_be_dropped_where_there_is_none(tmp_path: Path) -> None:
    save_state(tmp_path / "s", *trained(), {})
    for _ in range(2):
        drop_state(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_state_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be written") as it:
        save_state(tmp_path / "file" / "s", *trained(), {})
    assert "\n" not in str(it.value)
