"""The growing cache holds what transformers' own holds, and serves plain full attention alone."""

from pathlib import Path

import pytest
import torch
from tiny import load, write_model
from tip.stages.engines.local.cache import drops_rows, keep_rows, new_cache

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return {a: write_model(tmp_path_factory.mktemp(a), a) for a in ("llama", "mistral")}


def test_the_growing_cache_holds_what_transformers_own_holds(folders: Folders) -> None:
    model = load(folders["llama"])
    ours, theirs = new_cache(model.model), None
    generator = torch.Generator().manual_seed(0)
    kept = torch.tensor([0, 2])
    with torch.inference_mode():
        for step, width in enumerate((70, 1, 1, 90, 1)):  # beyond the room of the first buffer
            ids = torch.randint(0, 60, (3 if step < 2 else 2, width), generator=generator)
            mine = model.hidden(ids, past_key_values=ours, use_cache=True)
            body = model.model.base_model(input_ids=ids, past_key_values=theirs, use_cache=True)
            theirs = body.past_key_values
            torch.testing.assert_close(mine, body.last_hidden_state)
            if step == 1:
                keep_rows(ours, kept)
                theirs.batch_select_indices(kept)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys)
        torch.testing.assert_close(a.values, b.values)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_windowed_attention_gets_transformers_own_cache(folders: Folders) -> None:
    windowed, full = (new_cache(load(folders[a]).model) for a in ("mistral", "llama"))
    kinds = ({type(layer).__name__ for layer in cache.layers} for cache in (windowed, full))
    assert list(kinds) == [{"DynamicSlidingWindowLayer"}, {"_GrowingLayer"}]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("llama", True), ("mistral", True), ("lfm2", False), ("falcon_h1", False)],
)
def test_rows_leave_where_a_layer_keeps_keys_and_nothing_else(
    tmp_path: Path, architecture: str, expected: bool
) -> None:
    model = load(write_model(tmp_path / "model", architecture))
    cache = new_cache(model.model)
    assert not drops_rows(cache)  # nothing is in it yet: the model may keep it elsewhere
    with torch.inference_mode():
        model.hidden(torch.tensor([[3, 4, 5]]), past_key_values=cache, use_cache=True)
    assert drops_rows(cache) == expected
