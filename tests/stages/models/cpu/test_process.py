"""Whoever computes sets the process up, each switch can be off, and loading alone sets nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_model
from tip.stages.models.cpu import process
from tip.stages.models.cpu.attention import NAME
from tip.stages.models.cpu.settings import CpuSettings

CPU = torch.device("cpu")
LOAD = """
import sys, torch
from transformers import AttentionInterface
from tip.stages.models.cpu import heap
heap.keep_freed_memory = lambda: sys.exit("the allocator was told something")
from tip.stages.models.card import read_card
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
def now():
    return (torch.get_num_threads(), torch.get_float32_matmul_precision(),
            torch.backends.mkldnn.matmul.fp32_precision, sorted(AttentionInterface().valid_keys()))
before = now()
card = read_card(ModelSettings(model=sys.argv[1]))
load_model(card, torch.device("cpu"), torch.float32)
print(now() == before)
"""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: words.append(name)

    monkeypatch.setattr(process, "keep_freed_memory", note("heap"))
    monkeypatch.setattr(process, "use_faster_products", note("products"))
    monkeypatch.setattr(process, "register", note("attention"))
    return words


def test_loading_a_model_changes_nothing_of_the_process(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_a_process_that_computes_on_a_cpu_is_told_all_three(told: list[str]) -> None:
    assert process.set_up(CPU, 0, CpuSettings()) == NAME
    assert told == ["heap", "products", "attention"]


@pytest.mark.parametrize("name", ["attention", "products", "heap"])
def test_each_switch_can_be_off(told: list[str], name: str) -> None:
    attention = process.set_up(CPU, 0, CpuSettings.model_validate({name: False}))
    assert sorted(told) == sorted({"attention", "products", "heap"} - {name})
    assert attention == ("sdpa" if name == "attention" else NAME)


def test_on_a_gpu_only_threads_are_set(told: list[str]) -> None:
    before = torch.get_num_threads()
    try:
        assert process.set_up(torch.device("cuda"), 3, CpuSettings()) == "sdpa"
        assert (told, torch.get_num_threads()) == ([], 3)
    finally:
        torch.set_num_threads(before)
