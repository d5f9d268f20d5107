"""A loaded model is ready for use, and weights that do not suit its config are refused."""

from pathlib import Path

import pytest
import torch
from model_folders import change_config, refusal
from safetensors.torch import load_file, save_file
from tiny import load
from tip.stages.models.card import look_at_card
from tip.stages.models.load import load_on_meta
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError


def test_a_loaded_model_is_in_evaluation_mode_and_wants_no_gradient(original: Path) -> None:
    model = load(original)
    assert not model.model.training
    assert not any(p.requires_grad for p in model.model.parameters())


def test_a_missing_weight_is_refused_and_named_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight is missing" in refusal(folder)


def test_a_weight_of_another_shape_is_refused_and_named(folder: Path) -> None:
    change_config(folder, intermediate_size=20)
    found = refusal(folder)
    assert "mlp.down_proj.weight is of another shape (16 x 24, where its config" in found
    assert "(6 such tensors)" in found


def test_without_its_weights_a_model_has_its_shapes_and_its_attention(folder: Path) -> None:
    whole, card = load(folder), look_at_card(ModelSettings(model=str(folder)))
    here = load_on_meta(card)
    (folder / "model.safetensors").unlink()
    for model in (here, load_on_meta(card)):
        assert type(model) is type(whole.model)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert [(n, p.shape) for n, p in model.named_parameters()] == [
            (n, p.shape) for n, p in whole.model.named_parameters()
        ]
        assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 20}, "is of another shape"),
        ({"attention_bias": True}, "k_proj.bias is missing"),
        ({"num_hidden_layers": 1}, "in the files, and no part of such a model"),
    ],
)
def test_what_weights_are_not_is_known_without_them(
    folder: Path, change: dict[str, object], said: str
) -> None:
    change_config(folder, **change)
    with pytest.raises(ModelError, match=said) as it:
        load_on_meta(look_at_card(ModelSettings(model=str(folder))))
    assert str(it.value) == refusal(folder)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    change_config(folder, model_type="something_else")
    assert "no usable config" in refusal(folder)


def test_weights_do_not_stay_in_the_file_where_their_place_decides_how_products_round(
    folder: Path,
) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    for note in ("", "x", "xx" * 9):
        save_file({n: w.clone() for n, w in weights.items()}, path, metadata={"note": note})
        model = load(folder)
        assert {p.data_ptr() % 64 for p in model.model.parameters()} == {0}
    before = {n: p.clone() for n, p in model.model.named_parameters()}
    with path.open("r+b") as file:  # in place, as a careless copy would
        file.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(p, before[n]) for n, p in model.model.named_parameters())
