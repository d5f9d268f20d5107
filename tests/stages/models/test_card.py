"""A card is a plain value of what a folder says of itself, and looking at one hashes nothing."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import change_config, refusal
from tiny import STOP, load, write_model
from tip.stages.models import fingerprint
from tip.stages.models.card import ModelCard, load_tokenizer, look_at_card, read_card
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError
from tokenizers import AddedToken


@pytest.fixture
def settings(tmp_path: Path) -> ModelSettings:
    return ModelSettings(model=str(write_model(tmp_path / "m")))


def test_a_card_prints_in_a_line_pickles_and_holds_no_tokenizer(settings: ModelSettings) -> None:
    card = read_card(settings)
    data = pickle.dumps(card)
    assert pickle.loads(data) == card
    assert len(data) < 2000
    assert len(repr(card)) < 600
    assert "\n" not in repr(card)


def test_a_tokenizer_is_loaded_once_a_process(settings: ModelSettings) -> None:
    card = read_card(settings)
    assert card.tokenizer is read_card(settings).tokenizer
    assert card.special_ids == (0, 1)  # the unknown token and the stop token


def test_tokens_that_only_a_flag_makes_special_are_special(settings: ModelSettings) -> None:
    tokenizer = load_tokenizer.__wrapped__(Path(settings.model), False)
    before = read_card(settings)
    tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("plain")])
    tokenizer.add_tokens([AddedToken("w7", special=True)])
    tokenizer.save_pretrained(settings.model)
    load_tokenizer.cache_clear()
    card = read_card(settings)
    header = card.tokenizer.convert_tokens_to_ids("<|header|>")
    assert {7, header}.isdisjoint(card.tokenizer.all_special_ids)  # else this shows nothing
    assert card.flagged_ids == (7, header)
    assert card.special_ids == (*before.special_ids, 7, header)
    assert (before.flagged_ids, before.stop_ids) == ((), card.stop_ids)


@pytest.mark.parametrize("read", [read_card, look_at_card])
def test_a_folder_of_the_users_has_no_revision(
    settings: ModelSettings, read: Callable[[ModelSettings], ModelCard]
) -> None:
    revised = settings.model_copy(update={"revision": "v2"})
    with pytest.raises(ModelError, match="a folder has no revision: drop revision = 'v2'"):
        read(revised)


def test_looking_knows_a_fingerprint_that_was_made_before_and_makes_none(
    settings: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real, hashed = fingerprint._tensor_hashes, []

    def note(path: Path) -> object:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(fingerprint, "_tensor_hashes", note)
    assert look_at_card(settings).fingerprint == ""
    assert not hashed
    assert not (tmp_path / "cache").exists()
    known = read_card(settings).fingerprint
    assert len(hashed) == 1
    assert look_at_card(settings).fingerprint == known != ""
    assert len(hashed) == 1


def test_the_card_says_what_is_known_without_weights(original: Path) -> None:
    card = read_card(ModelSettings(model=str(original)))
    assert (card.stop_ids, card.head_rows, card.context) == ((STOP,), 60, 128)
    assert card.tokenizer.get_vocab()["w7"] == 7
    assert card.fingerprint == load(original).card.fingerprint


def test_stop_ids_come_from_generation_config_config_and_tokenizer(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 5]}')
    change_config(folder, eos_token_id=9)
    assert read_card(ModelSettings(model=str(folder))).stop_ids == (STOP, 5, 7, 9)


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
        ("generation_config.json", '{"eos_token_id": [[1]]}', "is no token id"),
        ("generation_config.json", '{"eos_token_id": 1e30}', "is no token id"),
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


def test_a_tokenizer_that_is_newer_than_the_library_is_refused_with_a_way_out(folder: Path) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["model"]["type"] = "WordLevelNext"
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    assert refusal(folder).endswith(
        "; copy its tokenizer's files again, or update transformers and tokenizers if they are "
        "older than the files"
    )


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "no usable tokenizer" in refusal(folder)


def test_a_family_that_begins_every_text_with_its_bos_says_so(settings: ModelSettings) -> None:
    folder = Path(settings.model)
    assert read_card(settings).first_id is None
    change_config(folder, model_type="gemma3_text", bos_token_id=2, head_dim=16)
    assert look_at_card(settings).first_id == 2
