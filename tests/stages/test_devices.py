"""Numeric tests run where there is something to compute on, and say where there is nothing."""

import pytest
import torch
from devices import DEVICES, computed_on
from tip.stages.models.head import Head
from waits import GPU, played_gpu


def test_numeric_tests_run_on_the_gpu_of_this_machine() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible here: numeric tests ran on the CPU alone")
    assert [device.type for device in DEVICES] == ["cpu", "cuda"]


def twice(head: Head, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.device]:
    """Double rows in place, add to a gradient, and tell where."""
    for row in rows:
        row.mul_(2)
    assert head.weight.grad is not None
    head.weight.grad.add_(1)
    return rows[0] + head.weight, rows[0].device


def test_what_is_computed_elsewhere_comes_back_with_what_it_wrote() -> None:
    weight, row = torch.ones(3, requires_grad=True), torch.arange(3.0)
    weight.grad = torch.zeros(3)
    with played_gpu(), computed_on(GPU, globals(), "twice"):
        found, place = twice(Head(weight), [row])
    assert (place, found.device.type) == (GPU, "cpu")
    assert found.tolist() == [1.0, 3.0, 5.0]
    assert row.tolist() == [0.0, 2.0, 4.0]
    assert weight.grad.tolist() == [1.0, 1.0, 1.0]
    assert not hasattr(twice, "__wrapped__"), "the module has its own again"
