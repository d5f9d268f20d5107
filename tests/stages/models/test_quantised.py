"""Quantised weights are met before any work: a student always, a teacher without its library."""

from pathlib import Path
from typing import Any

import pytest
from model_folders import change_config
from tip.stages.models.card import ModelCard, look_at_card
from tip.stages.models.quantised import check_quantised_teacher, refuse_quantised_student
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError

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


@pytest.mark.parametrize("method", METHODS)
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
