"""An adapter stands for the model that it makes: base, adapter and rank are told apart."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapters import card, change_adapter, refusal, write_adapter
from safetensors.torch import load_file, save_file
from tiny import STOP, tokenizer, write_model
from tip.stages.models import fingerprint
from tip.stages.models.card import look_at_card, read_card
from tip.stages.models.served import read_served_card
from tip.stages.models.settings import ModelSettings, ServerSettings, TeacherSettings
from tip.storage.errors import ModelError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return write_adapter(base.parent / "adapter", base)


@pytest.fixture
def spoilt(adapter: Path, tmp_path: Path) -> Path:
    """Return a copy of the adapter, to be spoilt."""
    return shutil.copytree(adapter, tmp_path / "spoilt")


def test_fingerprints_tell_base_adapter_and_rank_apart(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    folders = [
        base,
        adapter,
        write_adapter(tmp_path / "seed", base, seed=1),
        write_adapter(tmp_path / "rank", base, r=5),
        write_adapter(tmp_path / "alpha", base, lora_alpha=16),
        write_adapter(tmp_path / "stable", base, use_rslora=True),
        write_adapter(tmp_path / "base", other),
        write_adapter(tmp_path / "dora", base, use_dora=True),
    ]
    assert len({card(folder).fingerprint for folder in folders}) == len(folders)
    same = shutil.copytree(adapter, tmp_path / "same")
    moved = shutil.copytree(base, tmp_path / "moved")
    about = json.loads((same / CONFIG).read_text())
    change_adapter(
        same,
        base_model_name_or_path=str(moved),
        target_modules=about["target_modules"][::-1],
        lora_dropout=0.5,
        peft_version="0.1",
    )
    assert card(same).fingerprint == card(adapter).fingerprint


def test_the_base_is_a_folder_by_its_path_or_beside_the_adapter_or_here(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "of" / "adapter")
    shutil.copytree(base, tmp_path / "of" / "base")
    shutil.copytree(base, tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    for name, expected in (
        (str(base), base),
        ("../base", folder / "../base"),
        ("mine", Path("mine")),
    ):
        change_adapter(folder, base_model_name_or_path=name)
        found = card(folder).adapter
        assert found is not None
        assert found.base == expected


def test_the_base_may_be_a_name_on_the_hub_with_its_revision(
    base: Path, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append((name, revision))
        return base

    monkeypatch.setattr("tip.stages.models.folder._fetch", fetch)
    change_adapter(spoilt, base_model_name_or_path="owner/base", revision="v1")
    found = card(spoilt)
    assert asked[0] == ("owner/base", "v1")
    assert found.weights_folder == base


def test_an_adapter_on_the_hub_is_refused_with_the_way_out(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.stages.models.folder._fetch", lambda *_: adapter)
    with pytest.raises(ModelError, match="hf download owner/lora --local-dir FOLDER"):
        read_card(ModelSettings(model="owner/lora"))


def test_a_served_teacher_may_be_an_adapter(adapter: Path) -> None:
    server = ServerSettings(url="http://here")
    served = read_served_card(TeacherSettings(model=str(adapter), server=server))
    assert served == card(adapter)


def test_tokenizer_and_stop_ids_are_the_adapters_where_it_has_them_else_the_bases(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    plain = card(adapter)
    assert (plain.folder, plain.vocabulary_folder, plain.stop_ids) == (base, base, (STOP,))
    assert plain.weights_folder == base
    folder = shutil.copytree(adapter, tmp_path / "own")
    words = tokenizer(59)
    words.chat_template = "{{ messages }}"
    words.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    own = card(folder)
    assert own.vocabulary_folder == folder
    assert len(own.tokenizer.get_vocab()) == 59
    assert own.tokenizer.chat_template == "{{ messages }}"
    assert own.stop_ids == (1, 7)
    assert own.fingerprint != plain.fingerprint


def test_a_config_beside_the_adapter_counts_unless_it_tells_how_the_base_was_quantised(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "own")
    about = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"max_position_embeddings": 64}))
    assert (card(folder).folder, card(folder).context) == (folder, 64)
    quantised = about | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(quantised))
    assert (card(folder).folder, card(folder).context) == (base, 128)


def test_looking_hashes_no_base_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "_hashed", {})
    base = write_model(tmp_path / "base", seed=7)
    folder = write_adapter(tmp_path / "adapter", base)
    settings = ModelSettings(model=str(folder))
    before = sorted(tmp_path.rglob("*"))
    assert look_at_card(settings).fingerprint == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert card(folder).fingerprint == look_at_card(settings).fingerprint != ""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type = 'PROMPT_TUNING'; expected 'LORA'"),
        ({"peft_type": None}, "peft_type = None"),
        ({"r": 0}, "r = 0; expected the rank"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path = None; expected"),
        ({"base_model_name_or_path": "/no/such"}, "its base cannot be had: /no/such: no such"),
        ({"base_model_name_or_path": "."}, "is an adapter itself"),
        ({"target_modules": ["query"]}, r"does not fit its base .*'query'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication = "),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' makes it more"),
        ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "megatron_config = "),
        ({"r": 3}, r"does not fit its base .*size mismatch"),
        ({"lora_alpha": float("nan")}, "not usable"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_one_line(
    spoilt: Path, fields: dict[str, Any], said: str
) -> None:
    change_adapter(spoilt, **fields)
    line = refusal(spoilt)
    assert re.search(said, line), line


def test_an_adapter_over_an_adapter_is_refused(adapter: Path, spoilt: Path) -> None:
    change_adapter(spoilt, base_model_name_or_path=str(adapter))
    assert f"its base {adapter} is an adapter itself" in refusal(spoilt)


def test_a_base_of_quantised_weights_is_refused(base: Path, spoilt: Path, tmp_path: Path) -> None:
    small = shutil.copytree(base, tmp_path / "small")
    about = json.loads((small / "config.json").read_text())
    about["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (small / "config.json").write_text(json.dumps(about))
    change_adapter(spoilt, base_model_name_or_path=str(small))
    assert "has quantised weights, which nothing is merged into" in refusal(spoilt)


@pytest.mark.parametrize("damage", ["cut", "header", "gone", "other kind"])
def test_a_damaged_file_is_named(spoilt: Path, damage: str) -> None:
    path = spoilt / WEIGHTS
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-8])
    elif damage == "header":
        path.write_bytes(data[:8] + b"x" * (len(data) - 8))
    else:
        path.unlink()
    if damage == "other kind":
        (spoilt / "adapter_model.bin").write_bytes(b"pickle")
    assert WEIGHTS in refusal(spoilt)


@pytest.mark.parametrize("what", ["missing", "of no layer"])
def test_tensors_that_are_missing_or_belong_to_no_layer_are_named(spoilt: Path, what: str) -> None:
    tensors = load_file(spoilt / WEIGHTS)
    name = next(iter(tensors))
    value = tensors.pop(name)
    if what == "of no layer":
        tensors[name] = value
        tensors[name.replace("layers.0", "layers.9")] = value.clone()
    save_file(tensors, spoilt / WEIGHTS, {"format": "pt"})
    line = refusal(spoilt)
    assert what in line
    assert "(1 such tensors)" in line


def test_a_revision_of_a_folder_and_a_missing_library_are_one_line(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="a folder has no revision"):
        card(adapter, revision="main")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'tip-opd[lora]'" in refusal(adapter)


def test_a_folder_with_whole_weights_is_no_adapter(base: Path, spoilt: Path) -> None:
    shutil.copytree(base, spoilt, dirs_exist_ok=True)
    assert card(spoilt).adapter is None
