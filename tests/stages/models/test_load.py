"""Models load when their head is a plain one, and what does not fit is refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, STOP, load, write_model
from tip.stages.models.card import read_card
from tip.stages.models.device import resolve_device, resolve_dtype
from tip.stages.models.head import Head
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "original")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a copy of the model that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def refusal(folder: Path) -> str:
    """Return the one line that loading the folder is refused with."""
    with pytest.raises(ModelError) as it:
        load(folder)
    assert "\n" not in str(it.value)
    assert str(folder) in str(it.value)
    return str(it.value)


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_compute_type_passes_the_probe(original: Path, dtype: torch.dtype) -> None:
    model = load(original, dtype)
    assert model.head.weight.dtype == dtype
    logits = model.head.logits(model.hidden(torch.tensor([[3, 4]]))[0])
    assert logits.dtype == torch.float32


def test_a_loaded_model_is_in_evaluation_mode_and_wants_no_gradient(original: Path) -> None:
    model = load(original)
    assert not model.model.training
    assert not any(p.requires_grad for p in model.model.parameters())


def test_the_probe_leaves_the_model_as_it_was(original: Path) -> None:
    model = load(original)
    assert not model.model.base_model._forward_hooks
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(
        model.model(input_ids=ids).logits[0], model.head.logits(model.hidden(ids)[0])
    )


@pytest.mark.parametrize("spread", [0.3, 0.02], ids=["large logits", "small logits"])
def test_soft_capped_logits_are_refused_however_small_they_are(
    tmp_path: Path, spread: float
) -> None:
    assert "soft-capped" in refusal(write_model(tmp_path, "gemma2", spread=spread))


def test_the_same_architecture_without_a_cap_is_welcome(tmp_path: Path) -> None:
    assert load(write_model(tmp_path, "gemma2", final_logit_softcapping=None)).vocabulary == 60


@pytest.mark.parametrize("scale", [0.5, 1.01])
def test_scaled_logits_are_refused(tmp_path: Path, scale: float) -> None:
    folder = write_model(tmp_path, "cohere", logit_scale=scale)
    assert "scaled or soft-capped" in refusal(folder)


def test_the_card_says_what_is_known_without_weights(original: Path) -> None:
    card = read_card(ModelSettings(model=str(original)))
    assert (card.stop_ids, card.head_rows, card.context) == ((STOP,), 60, 128)
    assert card.tokenizer.get_vocab()["w7"] == 7
    assert card.fingerprint == load(original).card.fingerprint


def test_stop_ids_come_from_generation_config_config_and_tokenizer(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 5]}')
    change_config(folder, eos_token_id=9)
    assert read_card(ModelSettings(model=str(folder))).stop_ids == (STOP, 5, 7, 9)


def test_a_missing_weight_is_refused_and_named_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight is missing" in refusal(folder)


def test_a_weight_of_another_shape_is_refused_and_named(folder: Path) -> None:
    change_config(folder, intermediate_size=20)
    assert "mlp.down_proj.weight is of another shape (6 such tensors)" in refusal(folder)


def test_a_weight_that_is_not_a_number_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][7, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinity" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "expected a JSON object, found list"),
        ("config.json", '{"model_type": "llama"}', "no vocab_size"),
        ("generation_config.json", "{", "not JSON"),
        ("model.safetensors", None, r"no *.safetensors weights"),
        ("model.safetensors", "not weights", "safetensors file"),
        ("tokenizer.json", "{", "no usable tokenizer"),
        ("tokenizer.json", "{}", "no usable tokenizer"),
    ],
)
def test_a_file_that_is_missing_or_garbled_is_refused(
    folder: Path, name: str, content: str | None, reason: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert reason in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "no usable tokenizer" in refusal(folder)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    change_config(folder, model_type="something_else")
    assert "does not load" in refusal(folder)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        read_card(ModelSettings(model=name))


def test_devices_are_resolved_and_absent_or_unknown_ones_refused() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "meta", "cuda:x", "cpu:0", ""):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
            resolve_device(name)
    with pytest.raises(ConfigError, match="visible here"):
        resolve_device("cuda:99")


def test_auto_means_bfloat16_on_a_gpu_and_float32_on_a_cpu() -> None:
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("float16", CPU) == torch.float16


def test_a_head_with_a_bias_adds_it() -> None:
    head = Head(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    assert head.logits(torch.tensor([[1.0, 1.0, 1.0]])).tolist() == [[2.0, 3.0, 4.0]]


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
