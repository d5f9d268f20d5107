"""Sizes come from headers; weights that are not here have none."""

from pathlib import Path

import pytest
from model_folders import change_config
from tiny import load, write_model
from tip.stages.models.card import look_at_card
from tip.stages.models.settings import ModelSettings
from tip.stages.models.size import parameters_of, shape_of
from tip.storage.errors import ModelError


def test_parameters_are_those_of_the_loaded_model_and_sizes_those_of_its_config(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "m", "qwen3")
    shape = shape_of(look_at_card(ModelSettings(model=str(folder))))
    assert shape.parameters == sum(p.numel() for p in load(folder).model.parameters())
    assert (shape.layers, shape.hidden, shape.vocabulary) == (2, 16, 60)
    assert shape.cache_elements == 2 * 2 * 1 * 8  # keys and values, layers, heads, width


def test_weights_that_are_not_here_are_counted_by_their_class_and_damaged_ones_are_named(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "m")
    card = look_at_card(ModelSettings(model=str(folder)))
    path, count = folder / "model.safetensors", parameters_of(card)
    data = path.read_bytes()
    path.write_bytes(data[:40])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        parameters_of(card)
    path.unlink()
    assert parameters_of(card) == count
    change_config(folder, model_type="unknown")
    assert parameters_of(card) is None
