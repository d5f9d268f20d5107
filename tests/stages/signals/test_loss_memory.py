"""Head and loss need the memory of a chunk, however many tokens are selected."""

import subprocess
import sys

import pytest

PEAK = """
import sys
import torch
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.models.head import Head
from tip.stages.signals.loss import sparse_loss
from tip.stages.signals.objective import Objective
from tip.stages.train.settings import TrainSettings
from tip.stages.signals.support import Support

def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

torch.set_num_threads(1)
tokens, vocabulary, width, slots = int(sys.argv[1]), 151_936, 8, 32
hidden = torch.randn(tokens, width)
weight = torch.randn(vocabulary, width).requires_grad_()
weight.grad = torch.zeros_like(weight)
ids = torch.randint(0, vocabulary, (tokens, slots)).sort(1).values
support = Support(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((tokens, slots), -4.0),
                  torch.full((tokens,), -4.0))
weights = torch.full((tokens,), 1 / tokens)
before = kilobytes("VmRSS")
sparse_loss(hidden, Head(weight), support, weights, Objective("reverse_kl"),
            chunk=chunk_rows(TrainSettings().chunk(fused=False), vocabulary))
print((kilobytes("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process' peak from /proc")
def test_head_and_loss_need_less_than_100_mb_whatever_the_number_of_tokens() -> None:
    # [tokens, V] in float32 would be 156 MB and 622 MB. The peak of a process counts whole pages
    # and the import of torch, so it is an upper bound.
    few, many = (peak_of(tokens) for tokens in (256, 1024))
    assert max(few, many) < 100
    assert many - few < 10


def peak_of(tokens: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tokens)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)
