"""A model in memory becomes what a load in another type gives, to the bit, or stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import load, write_model
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.recast import recast
from tip.stages.train.export import export
from tip.storage.store.drafts import Draft

ARCHITECTURES = (
    *("llama", "qwen2", "qwen3", "mistral", "gpt2", "cohere", "granite"),
    *("minicpm3", "opt", "glm4_moe", "mixtral", "gpt_neox", "phi3", "starcoder2"),
)


def folder(tmp_path: Path, architecture: str, dtype: str, **more: Any) -> Path:
    """Return the folder of a student as a training leaves it."""
    model = load(write_model(tmp_path / "student", architecture, **more))
    (tmp_path / "out").mkdir()
    export(model, Draft(tmp_path / "out"), dtype)
    return tmp_path / "out"


def bits(model: LanguageModel) -> dict[str, tuple[torch.dtype, bytes]]:
    """Return all numbers of a model, those of buffers that no file holds as well."""
    tensors = [*model.model.named_parameters(), *model.model.named_buffers()]
    return {
        name: (t.dtype, t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors
    }


@torch.inference_mode()
def logits(model: LanguageModel) -> torch.Tensor:
    ids = torch.arange(12).reshape(2, 6) % model.vocabulary
    return model.model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("exported", ["bfloat16", "float32"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_becomes_what_a_load_gives_to_the_bit(
    tmp_path: Path, architecture: str, exported: str
) -> None:
    path = folder(tmp_path, architecture, exported)
    model, wanted = load(path), load(path, torch.bfloat16)
    found = recast(model, torch.bfloat16)
    assert found is not None
    assert bits(found) == bits(wanted)
    assert found.dtype == wanted.dtype
    assert found.model.config.to_dict() == wanted.model.config.to_dict()
    assert torch.equal(logits(found), logits(wanted))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_tied_weights_stay_one(tmp_path: Path, tied: bool) -> None:
    found = recast(load(folder(tmp_path, "qwen2", "bfloat16", tied=tied)), torch.bfloat16)
    assert found is not None
    ends = found.model.get_input_embeddings().weight, found.model.get_output_embeddings().weight
    assert (ends[0].data_ptr() == ends[1].data_ptr()) == tied


def test_the_type_that_a_model_has_is_itself(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "student"))
    assert recast(model, torch.float32) is model


def test_a_model_whose_buffers_a_load_computes_in_its_type_stays_as_it_is(tmp_path: Path) -> None:
    model = load(folder(tmp_path, "gemma2", "bfloat16"))  # a scale, rounded to the type
    before = bits(model)
    assert recast(model, torch.bfloat16) is None
    assert bits(model) == before
