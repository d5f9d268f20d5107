"""Peak memory: of this process alone, and on a GPU of one stage."""

import subprocess
import sys

import pytest
import torch
from tip.pipeline.progress import peak_memory

CPU = torch.device("cpu")


def test_a_child_has_a_peak_of_its_own_whatever_its_parent_held() -> None:
    held = b"x" * (1 << 30)
    program = (
        "import torch; from tip.pipeline.progress import peak_memory\n"
        "print(peak_memory(torch.device('cpu'))['peak_memory_mb'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert peak_memory(CPU)["peak_memory_mb"] > len(held) >> 20 > int(done.stdout) > 10


def test_the_peak_on_a_gpu_begins_anew_with_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [3 << 20]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peaks[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peaks.append(1 << 20))
    told = [peak_memory(torch.device("cuda"))["peak_gpu_memory_mb"] for _ in range(2)]
    assert told == [3, 1]
    assert peak_memory(CPU).keys() == {"peak_memory_mb"}
