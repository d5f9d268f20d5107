"""Attention as a user asks for it: the same numbers, or one line where it cannot be had."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import logits
from tiny import CPU, write_model
from tip.stages.models.attention import attention_of, check_attention
from tip.stages.models.card import ModelCard, read_card
from tip.stages.models.cpu.attention import NAME, register
from tip.stages.models.load import load_model, load_on_meta
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ConfigError, ModelError, TipError
from transformers import AutoModelForCausalLM

FLASH = ("flash_attention_2", "flash_attention_3")


def card(folder: Path, wanted: Any = "auto") -> ModelCard:
    return read_card(ModelSettings(model=str(folder), attn_implementation=wanted))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("m") / "m")


@pytest.mark.parametrize("wanted", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_each_computes_what_eager_attention_does_in_float64(
    tmp_path: Path, architecture: str, wanted: str
) -> None:
    register()
    folder = write_model(tmp_path / "m", architecture)
    model = load_model(card(folder, wanted), CPU, torch.float32, attention=NAME).model
    reference = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    assert model.config._attn_implementation == (NAME if wanted == "auto" else wanted)
    gap = (logits(model) - logits(reference, torch.float64)).abs().max()
    assert gap < 1e-5 * logits(model).abs().max().clamp(min=1)


def test_it_is_the_same_with_weights_and_without(folder: Path) -> None:
    for wanted in ("sdpa", "eager"):
        meta = load_on_meta(card(folder, wanted))
        assert meta.config._attn_implementation == wanted


def test_it_is_no_part_of_a_fingerprint(folder: Path) -> None:
    assert card(folder).fingerprint == card(folder, "eager").fingerprint


def test_what_sdpa_would_leave_out_is_refused_and_eager_is_taken(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "gemma2", attn_logit_softcapping=5.0)
    for wanted in ("auto", "eager"):
        model = load_model(card(folder, wanted), CPU, torch.float32, attention=NAME).model
        assert model.config._attn_implementation == "eager"
    for load in (load_on_meta, lambda of: load_model(of, CPU, torch.float32)):
        with pytest.raises(ModelError, match="'sdpa' may leave out its attn_logit_softcapping"):
            load(card(folder, "sdpa"))


def test_a_class_without_sdpa_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "rwkv")
    with pytest.raises(ModelError, match=r"does not load .*scaled_dot_product") as it:
        load_on_meta(card(folder, "sdpa"))
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("wanted", FLASH)
def test_flash_attention_without_gpu_or_package_or_in_float32_or_in_such_a_class_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    asked, model = card(folder, wanted), load_on_meta(card(folder, wanted))

    def refused(error: type[TipError], said: str, dtype: str = "auto", of: Any = model) -> None:
        with pytest.raises(error, match=said) as it:
            check_attention(of, asked, "teacher", dtype, "auto")
        assert "\n" not in str(it.value)

    refused(
        ConfigError, rf"teacher.attn_implementation = '{wanted}' needs a GPU, and device is cpu"
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    refused(ConfigError, "needs flash.attn.*, which is not installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace(name=name))
    refused(ConfigError, "computes in 16 bits alone, and teacher.dtype is float32", "float32")
    refused(ModelError, "SimpleNamespace has no flash attention", of=types.SimpleNamespace())
    check_attention(model, asked, "teacher", "auto", "auto")
    check_attention(model, replace(asked, attention="sdpa"), "teacher", "float32", "cpu")
    assert "flash_attn" not in sys.modules


@pytest.mark.parametrize("wanted", FLASH)
def test_what_is_held_in_float32_does_without_flash_attention(folder: Path, wanted: str) -> None:
    asked = card(folder, wanted)
    config = load_on_meta(asked).config
    assert attention_of(config, asked, torch.bfloat16) == wanted
    assert attention_of(config, asked, torch.float32) is None
    model = load_model(asked, CPU, torch.float32).model
    assert model.config._attn_implementation == "sdpa"
