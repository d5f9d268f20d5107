"""The count of waits knows what makes a host wait for a GPU, and what does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from waits import GPU, played_gpu


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: float(x.amax()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.to("cpu", torch.float64), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x[torch.tensor([0, 2])], 1),  # places that the host has
        (lambda x: torch.ones(3).to(GPU), 1),
        (lambda x: torch.tensor([1.0], device=GPU), 1),
        (lambda x: torch.ones(3).pin_memory().to(GPU, non_blocking=True), 0),
        (lambda x: x.to("cpu", non_blocking=True), 0),
        (lambda x: x[(x > 0).long()], 0),
        (lambda x: x.masked_fill(x > 0, 0.0).sort().values + torch.zeros(3, device=GPU), 0),
        (lambda x: x.to(GPU, torch.float64), 0),
        (lambda x: nn.functional.softmax(x, 0).topk(2), 0),
    ],
)
def test_what_a_gpu_is_waited_for(does: Callable[[Tensor], object], expected: int) -> None:
    with played_gpu() as waits:
        x = torch.tensor([1.0, -2.0, 3.0]).to(GPU)
        waits.clear()
        does(x)
        assert waits.total == expected
        assert all(place.startswith("stages/test_waits.py:") for place in waits.places)


def test_numbers_are_those_of_the_cpu_and_lie_on_the_gpu() -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    with played_gpu():
        weight = nn.Parameter(x.to(GPU))
        (weight.exp().sum() * 2).backward()
        assert (weight.device, weight.is_cuda) == (GPU, True)
        torch.optim.SGD([weight], 0.1).step()
        torch.testing.assert_close(weight.detach().cpu(), x - 0.1 * 2 * x.exp())


def test_a_copy_that_is_under_way_holds_its_numbers_once_it_was_waited_for() -> None:
    with played_gpu() as waits:
        x = torch.tensor([1.0, 2.0]).to(GPU)
        host, event = x.to("cpu", non_blocking=True), torch.cuda.Event()
        event.record()
        x.add_(1)
        later = x.to("cpu", non_blocking=True)
        waits.clear()
        assert host.tolist() != [1.0, 2.0]
        event.synchronize()
        assert (waits.total, host.tolist()) == (1, [1.0, 2.0])
        assert later.tolist() != [2.0, 3.0]
        assert x.sum().item() == 5.0  # what waits for the GPU waits for all that is under way
        assert later.tolist() == [2.0, 3.0]
