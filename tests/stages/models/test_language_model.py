"""A body and a head that together are the model, whether the head is its embedding or not."""

from pathlib import Path

import pytest
import torch
from tiny import load, write_model


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "llama4_text"])
def test_body_and_head_give_the_whole_models_logits(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    model = load(write_model(tmp_path, architecture, tied=tied))
    ids = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model.model(input_ids=ids).logits
        parts = model.head.logits(model.hidden(ids).flatten(0, 1)).view_as(whole)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert (model.head.weight is model.model.get_input_embeddings().weight) == tied
    assert model.vocabulary == 60
