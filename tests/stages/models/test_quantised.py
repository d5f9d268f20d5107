"""Quantised weights: a student never, a teacher where its library is here, and then exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import change_config
from tiny import load
from tip.stages.models.card import ModelCard, look_at_card
from tip.stages.models.quantised import check_quantised_teacher, refuse_quantised_student
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError
from transformers import AutoModelForCausalLM

METHODS: dict[str, dict[str, Any]] = {
    "awq": {"bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
    "gptq": {"bits": 4, "group_size": 32, "desc_act": False, "sym": True},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "exl3": {},
}


def card(folder: Path, method: str) -> ModelCard:
    change_config(folder, quantization_config={"quant_method": method} | METHODS[method])
    return look_at_card(ModelSettings(model=str(folder)))


@pytest.mark.parametrize("method", METHODS)
def test_a_student_is_refused_with_the_way_out(folder: Path, method: str) -> None:
    with pytest.raises(ModelError, match=rf"quantised \({method}\).*dequantize"):
        refuse_quantised_student(card(folder, method))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"bitsandbytes"}))
def test_a_teacher_whose_library_is_missing_is_refused_before_it_is_loaded(
    folder: Path, method: str
) -> None:
    with pytest.raises(ModelError, match=rf"quantised \({method}\), and transformers cannot") as it:
        check_quantised_teacher(card(folder, method))
    assert "\n" not in str(it.value)


def test_plain_weights_are_welcome(folder: Path) -> None:
    plain = look_at_card(ModelSettings(model=str(folder)))
    refuse_quantised_student(plain)
    check_quantised_teacher(plain)


def test_plain_numbers_under_a_config_that_says_quantised_are_refused(folder: Path) -> None:
    about = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    change_config(folder, quantization_config=about)
    with pytest.raises(ModelError, match="its files hold plain numbers") as it:
        check_quantised_teacher(look_at_card(ModelSettings(model=str(folder))))
    assert "quantization_config" in str(it.value)


def test_weights_that_are_unpacked_in_the_first_pass_give_the_numbers_of_the_unpacked(
    folder: Path,
) -> None:
    expected = packed(folder)
    check_quantised_teacher(look_at_card(ModelSettings(model=str(folder))))
    model = load(folder)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    with torch.no_grad():
        ours = model.head.logits(model.hidden(ids)[0])
        theirs = expected(input_ids=ids).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def packed(folder: Path) -> Any:
    """Pack the layers of a folder into 8 bits; return the model of the rounded numbers."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    weights = QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    about = QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head"], format="pack-quantized"
    )
    apply_quantization_config(model, about)
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            scale = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight_scale.data.copy_(scale)
            module.quantization_status = QuantizationStatus.FROZEN
            steps = (module.weight / scale).round()
            rounded.get_submodule(name).weight.data.copy_(steps * scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    assert compressor is not None
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    return rounded
