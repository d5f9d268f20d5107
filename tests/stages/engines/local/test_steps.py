"""Decoding on a GPU waits once in eight steps, and writes what it writes on a CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CPU, load, prompts, sampling, write_model
from tip.stages.engines.local.continuing import takes_padding
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.local.steps import Steps, packed
from tip.stages.engines.protocols import Request, Responses, Spared
from tip.storage.errors import NumericsError
from waits import on_gpu, played_gpu

STOPS = (1, 2, 3, 4, 5)
ARCHITECTURES = ["llama", "gpt2", "mistral"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {a: write_model(tmp_path_factory.mktemp(a), a) for a in ARCHITECTURES}


def requests() -> list[Request]:
    asked = prompts(*((9, 1, 4, 4, 7, 2, 12, 3) * 3))
    return [Request(p.ids, 1000 + i) for i, p in enumerate(asked)]


def assert_same(found: Responses, expected: Responses) -> None:
    for ours, theirs in ((found.ids, expected.ids), (found.top, expected.top)):
        assert np.array_equal(ours.values, theirs.values)
        assert np.array_equal(ours.counts, theirs.counts)
    assert np.array_equal(found.stopped, expected.stopped)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "terms",
    [{"temperature": 0.7, "top_p": 0.9}, {"top_most": 0}],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_writes_what_a_cpu_writes_and_is_waited_for_once_in_eight_steps(
    folders: dict[str, Path], architecture: str, terms: dict[str, Any]
) -> None:
    model, asked = load(folders[architecture]), requests()
    full = sampling(max_tokens=40, stop_ids=STOPS, **terms)
    expected = LocalEngine(model, 40).generate(asked, full)
    lengths = expected.ids.counts
    assert len(set(lengths.tolist())) > 6, "the rows should end at different steps"
    assert takes_padding(model)  # shown once a model, which waits
    done: list[int] = []
    with played_gpu() as waits:
        found = LocalEngine(on_gpu(model), 40).generate(asked, full, done.append)
        # what has finished is noticed up to sixteen steps late
        once = [p for p in waits.places if "cache_utils" in p]  # a number of each layer's window
        assert sum(waits.places.pop(place) for place in once) <= 2
        assert waits.total <= (min(int(lengths.max()) + 16, 40) + 7) // 8, waits.places
    assert_same(found, expected)
    assert sum(done) == 40 * len(asked)  # what a row leaves of its limit is spared


def test_logits_that_are_not_numbers_are_refused_on_a_gpu_too(folders: dict[str, Path]) -> None:
    model = load(folders["llama"])
    with torch.no_grad():
        model.head.weight[30] = float("nan")
    takes_padding(model)
    with played_gpu(), pytest.raises(NumericsError, match="NaN or infinity while it samples"):
        LocalEngine(on_gpu(model), 8).generate(requests(), sampling())


def test_a_packed_step_keeps_every_bit_and_the_ids_that_count() -> None:
    logprobs = torch.tensor([-0.1, -float("inf"), -1e-30])
    ids = torch.tensor([[5, 6], [7, 8], [9, 2]])
    kept = torch.tensor([[True, False], [True, True], [False, True]])
    row = packed(torch.tensor([5, 8, 151_935]), logprobs, ids, kept).numpy()
    assert row[:, 0].tolist() == [5, 8, 151_935]
    assert row[:, 1].copy().view(np.float32).tolist() == logprobs.tolist()
    assert row[:, 2:].tolist() == [[5, -1], [7, 8], [-1, 2]]


def test_what_a_row_writes_after_its_stop_token_is_left_out() -> None:
    steps = Steps(2, sampling(stop_ids=(1,)), 60, CPU)
    none = torch.zeros(2, 0, dtype=torch.long)
    told: list[int] = []
    for tokens in ([7, 1], [8, 9], [1, 9]):
        log_probs = -torch.tensor(tokens).float()
        assert steps.add(packed(torch.tensor(tokens), log_probs, none, none.bool()))
        steps.look(told.append)
    found = steps.responses()
    assert [found.ids.row(row).tolist() for row in (0, 1)] == [[7, 8, 1], [1]]
    assert found.logprobs.tolist() == [-7, -8, -1, -1]
    assert found.stopped.tolist() == [True, True]
    # the two rows that ended spare what they leave of the limit
    assert [n for n in told if not isinstance(n, Spared)] == [2, 1, 1]
    assert sum(told) == 2 * sampling().max_tokens
