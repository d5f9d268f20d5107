"""A token is drawn from its distribution by the noise that means it, top-k and top-p included."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices import computed_on
from drawing import TEMPERED, assert_drawn_from, expected_distribution
from tip.stages.arrays.noise import uniforms
from tip.stages.engines.local.sampling import draw


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(device, globals(), "draw"):
        yield


@pytest.mark.parametrize("terms", TEMPERED, ids=str)
def test_draws_follow_the_exact_distribution(terms: dict[str, Any]) -> None:
    logits = 1.5 * torch.randn(12, generator=torch.Generator().manual_seed(4))
    noise = torch.from_numpy(uniforms(0, np.arange(40_000), np.array([0]))[:, 0])
    full = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | terms
    drawn = draw(logits.expand(len(noise), -1), noise, **full)
    counts = np.bincount(drawn.numpy(), minlength=12)
    assert_drawn_from(counts, expected_distribution(logits.double().numpy(), **terms))


def test_a_token_of_probability_1e_9_is_drawn_by_the_noise_that_means_it() -> None:
    logits = torch.tensor([[0.0, np.log(1e-9), -40.0]], dtype=torch.float32)
    noise = torch.tensor([1 - 2e-9, 1 - 0.5e-9, 1 - 2.0**-53], dtype=torch.float64)
    drawn = draw(logits.expand(3, -1), noise, 1.0, 1.0, 0)
    assert drawn.tolist() == [0, 1, 1]


@pytest.mark.parametrize("terms", [(1.0, 1.0, 0), (1.0, 0.9, 0), (0.5, 1.0, 2)])
def test_the_ends_of_the_noise_never_draw_a_token_without_probability(
    terms: tuple[float, float, int],
) -> None:
    logits = torch.tensor([[-1e4, 2.0, 1.0, -1e4]]).expand(2, -1)
    noise = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert set(draw(logits, noise, *terms).tolist()) <= {1, 2}


@pytest.mark.parametrize("vocabulary", [256, 257, 1000, 2048])
def test_a_wide_vocabulary_is_drawn_from_like_a_narrow_one(vocabulary: int) -> None:
    random = np.random.default_rng(vocabulary)
    logits = torch.from_numpy(4 * random.standard_normal((3, vocabulary)).astype(np.float32))
    logits[0, 10:500] = -1e4  # whole blocks without probability
    logits[1, -40:] = -1e4
    sums = logits.softmax(1).double().numpy().cumsum(1)
    ends = np.array([0.0, 1e-12, 1 - 1e-12, 1 - 2.0**-53])
    for noise in np.concatenate([ends, random.random(300)]):
        drawn = draw(logits, torch.full((3,), noise, dtype=torch.float64), 1.0, 1.0, 0).numpy()
        for row, token in enumerate(drawn):
            before = sums[row, token - 1] if token else 0.0
            target = noise * sums[row, -1]
            assert before - 1e-12 <= target <= sums[row, token] + 1e-12
            assert logits[row, token] > -1e3


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [9.0, 1.0, 1.0]])
    noise = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert draw(logits, noise, 0.0, 0.1, 1).tolist() == [1, 0]


def test_drawing_leaves_the_logits_as_they_were() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    noise = torch.full((3,), 0.4, dtype=torch.float64)
    for terms in ((1.0, 1.0, 0), (0.5, 0.9, 4)):
        draw(logits, noise, *terms)
        assert torch.equal(logits, before)
