"""Log-probs are right to float32's last digits whatever the size of the vocabulary."""

import math
from collections.abc import Iterator

import pytest
import torch
from devices import computed_on
from tip.stages.arrays.log_softmax import log_softmax


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), "log_softmax"):
        yield


@pytest.mark.parametrize("vocabulary", [2, 1000, 49_152, 262_144])
def test_log_probs_are_those_of_float64_up_to_rounding(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, vocabulary, generator=generator)
    gap = (log_softmax(logits) - logits.double().log_softmax(1)).abs().max().item()
    assert gap < 5e-6  # torch's own is off by 4e-5 over the largest


def test_an_id_that_cannot_come_has_no_mass() -> None:
    found = log_softmax(torch.tensor([[0.0, -math.inf, 0.0]]))
    assert found[0].tolist() == pytest.approx([-math.log(2), -math.inf, -math.log(2)])
