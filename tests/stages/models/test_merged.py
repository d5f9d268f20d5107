"""A merged model is a plain folder in the store that computes what peft's own merge computes."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import card, change_adapter, logits, merged_by_peft, refusal, write_adapter
from safetensors.torch import load_file
from tiny import tokenizer, write_model
from tip.stages.models.merged import check_adapter, find_merged, folder_of
from tip.stages.models.weights import Weights
from tip.storage.errors import ModelError, StoreError
from tip.storage.store.store import Store
from transformers import AutoModelForCausalLM


def merged(store: Store, folder: Path, said: list[str] | None = None) -> Path:
    found = card(folder)
    weights = Weights("student", found, found.fingerprint, "float32")
    return folder_of(store, ([] if said is None else said).append, weights)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "target_modules": "all-linear"}),
        ("llama", {"use_dora": True}),
        ("qwen2", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}}),
        ("qwen3", {"modules_to_save": ["lm_head"]}),
        ("qwen2", {"bias": "lora_only"}),
        ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("llama", {"trainable_token_indices": [3, 5]}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_logits_are_those_of_pefts_own_merge(
    tmp_path: Path, architecture: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    base = write_model(tmp_path / "base", architecture, dtype=dtype)
    folder = write_adapter(tmp_path / "adapter", base, **changes)
    check_adapter(card(folder))
    found = merged(Store(tmp_path / "store"), folder)
    model = AutoModelForCausalLM.from_pretrained(found)
    assert model.dtype == torch.float32
    ours, expected = logits(model), merged_by_peft(base, folder)
    assert (ours - expected).abs().max() < 1e-5
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    assert (ours - plain).abs().max() > 1e-2


def test_it_is_made_once_and_told_and_a_store_that_only_looks_makes_none(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", base)
    said: list[str] = []
    store = Store(tmp_path / "store")
    assert find_merged(store, card(folder)) is None
    with pytest.raises(StoreError, match="opened to look"):
        merged(Store(tmp_path / "store", write=False), folder)
    assert merged(store, folder, said) == merged(store, folder, said)
    assert said == [f"note: the student's adapter is merged over {base}, once"]
    artifact = find_merged(store, card(folder))
    assert artifact is not None
    assert artifact.facts == {"fingerprint": card(folder).fingerprint}
    other = write_adapter(tmp_path / "other", base, r=5)
    assert find_merged(store, card(other)) is None


def test_files_beside_the_weights_are_the_adapters_else_the_bases_and_never_mixed(
    tmp_path: Path,
) -> None:
    base = write_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text("base")
    (base / "preprocessor_config.json").write_text("{}")
    folder = write_adapter(tmp_path / "adapter", base)
    store = Store(tmp_path / "store")
    first = merged(store, folder)
    assert (first / "chat_template.jinja").read_text() == "base"
    assert not (first / "adapter_config.json").exists()
    tokenizer(59).save_pretrained(folder)
    second = merged(store, folder)
    assert second != first
    names = {p.name for p in second.iterdir()}
    assert "preprocessor_config.json" in names
    assert "chat_template.jinja" not in names
    assert (second / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    weights = [load_file(f / "model.safetensors") for f in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_and_a_plain_folder_are_where_they_are(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    assert merged(Store(tmp_path / "store"), base) == base


def test_what_stands_beside_weights_is_part_of_what_is_merged(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    folder, store = write_adapter(tmp_path / "adapter", base), Store(tmp_path / "store")
    merged(store, folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert find_merged(store, card(copy)) is not None
    (copy / "chat_template.jinja").write_text("mine")
    assert find_merged(store, card(copy)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ],
)
def test_an_adapter_of_a_tensor_that_is_embedding_and_head_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = write_model(tmp_path / "base", tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that such a merge is another model
        folder = write_adapter(tmp_path / "adapter", base, **changes)
    assert "one tensor in its base" in refusal(folder)
    with pytest.raises(ModelError, match="one tensor in its base"):
        merged(Store(tmp_path / "store"), folder)


def test_a_tied_base_serves_adapters_of_its_layers(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tie_word_embeddings=True)
    folder = write_adapter(tmp_path / "adapter", base)
    model = AutoModelForCausalLM.from_pretrained(merged(Store(tmp_path / "store"), folder))
    assert (logits(model) - merged_by_peft(base, folder)).abs().max() < 1e-5


def test_an_option_that_peft_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", write_model(tmp_path / "base"))
    change_adapter(folder, future_thing=True, other_thing=None)
    assert "sets future_thing, which the installed peft does not know" in refusal(folder)
