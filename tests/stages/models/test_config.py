"""Sizes and limits are those of the config's class, whatever a family calls them."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_folders import change_config, refusal
from tiny import write_model
from tip.stages.models.card import look_at_card
from tip.stages.models.settings import ModelSettings
from tip.stages.models.size import shape_of


@pytest.mark.parametrize(
    ("architecture", "config", "context"),
    [
        ("llama", {}, 128),
        ("gpt2", {"max_position_embeddings": 32}, 32),  # it writes n_positions
        ("mpt", {"max_position_embeddings": None, "max_seq_len": 64, "n_heads": 2}, 64),
        ("bloom", {"max_position_embeddings": None}, 1 << 31),  # distances alone: nothing ends
    ],
)
def test_the_context_is_found_under_the_familys_own_name(
    tmp_path: Path, architecture: str, config: dict[str, Any], context: int
) -> None:
    folder = write_model(tmp_path, architecture, **config)
    assert look_at_card(ModelSettings(model=str(folder))).context == context


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 24} | more


FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0]}


@pytest.mark.parametrize(
    ("architecture", "rope_parameters", "context"),
    [
        ("phi3", rope("longrope", **FACTORS), 24),
        ("llama", rope("dynamic", factor=4.0), 24),
        ("llama", rope("yarn", factor=4.0), 128),  # the same at every length
    ],
)
def test_a_context_ends_where_a_sequence_would_change_with_the_longest_beside_it(
    tmp_path: Path, architecture: str, rope_parameters: dict[str, Any], context: int
) -> None:
    border = {"original_max_position_embeddings": 24} if architecture == "phi3" else {}
    folder = write_model(tmp_path, architecture, rope_parameters=rope_parameters, **border)
    assert look_at_card(ModelSettings(model=str(folder))).context == context


def test_a_context_that_is_no_count_is_refused(folder: Path) -> None:
    change_config(folder, max_position_embeddings=0)
    assert "a context of 0 tokens" in refusal(folder)


def test_gpt_2_has_the_sizes_of_its_twin(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    folder = write_model(tmp_path, "gpt2", num_key_value_heads=None, **sizes)
    assert json.loads((folder / "config.json").read_text())["n_embd"] == 24
    shape = shape_of(look_at_card(ModelSettings(model=str(folder))))
    assert (shape.hidden, shape.layers, shape.cache_elements) == (24, 3, 2 * 3 * 24)
