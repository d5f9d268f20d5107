"""A card is a plain value, and looking at one hashes nothing."""

import pickle
from pathlib import Path

import pytest
from tiny import write_model
from tip.stages.models import fingerprint
from tip.stages.models.card import look_at_card, read_card
from tip.stages.models.settings import ModelSettings


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
