"""The gradient of a step is that of the loss as defined, however the step is cut.

Tolerances are relative to the norm of the whole gradient. Against a dense loop: 1e-12 in float64,
3e-6 in float32 (1e-6 was seen). Between orders of summation: 1e-12 and 2e-6 (8e-7 was seen).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices import given
from tiny import CPU
from tiny_training import (
    ALL,
    Round,
    accumulated,
    denominator,
    dense,
    distance,
    gradients,
    step_of,
    train_settings,
    trainable,
)
from tip.stages.train import step as step_module
from tip.stages.train.step import micro_batch
from tip.stages.train.train import accumulate
from tip.stages.train.worlds.alone import Alone
from torch import Tensor

DIVERGENCES = ["reverse_kl", "forward_kl", "jsd", "jeffreys"]


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with given(device, globals(), "accumulated", "trainable"):
        yield


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_and_gradient_are_those_of_a_plain_dense_loop(made: Round, divergence: str) -> None:
    expected = dense(made, ALL, divergence, denominator(made.data, ALL))
    loss, found = accumulated(made, dtype=torch.float64, loss=divergence)
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert distance(found, expected[1]) < 1e-12
    loss, found = accumulated(made, loss=divergence)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    assert distance(found, expected[1]) < 3e-6


@pytest.mark.parametrize("chunk_elements", [1, 61, 1 << 22])
def test_the_chunk_of_the_head_changes_the_gradient_by_rounding_only(
    untied: Round, chunk_elements: int
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        expected = accumulated(untied, dtype=dtype)[1]
        found = accumulated(untied, dtype=dtype, chunk_elements=chunk_elements)[1]
        assert distance(found, expected) < tolerance


def test_bfloat16_autocast_comes_close(made: Round) -> None:
    loss, expected = accumulated(made)
    again, found = accumulated(made, autocast="bfloat16")
    # bfloat16 keeps 8 bits; two layers of it move these losses by a per cent or two
    assert again != loss
    assert again == pytest.approx(loss, rel=0.03)
    assert distance(found, expected) < 0.1


def test_the_body_reads_each_sequence_up_to_its_last_selected_token_and_no_other(
    untied: Round,
) -> None:
    student, data, read = trainable(untied.student), untied.data, []

    def note(_module: Any, _inputs: Any, named: dict[str, Any]) -> None:
        read.append(named["input_ids"].shape)

    student.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    alone = train_settings(batch_tokens=1)
    step = step_of(student, alone)
    due = denominator(data, ALL)
    _, _, body_tokens = accumulate(Alone(), step, data, ALL, alone, due).read()
    expected = []
    for row in ALL:
        positions = data.positions[data.tokens(row)]
        if len(positions):
            expected.append((1, int(data.prompts.counts[row] + positions.max())))
    assert len(expected) < len(ALL)
    assert sorted(read) == sorted(expected)
    assert body_tokens == sum(length for _, length in expected)


def test_only_selected_tokens_meet_the_head(untied: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, honest = [], step_module.sparse_loss

    def noted(hidden: Tensor, *rest: Any, **named: Any) -> Any:
        rows.append(len(hidden))
        return honest(hidden, *rest, **named)

    monkeypatch.setattr(step_module, "sparse_loss", noted)
    accumulated(untied)
    assert sum(rows) == len(untied.data.positions)


def test_a_step_is_one_forward_pass_whose_backward_fills_all_gradients(made: Round) -> None:
    student = trainable(made.student)
    step, due = step_of(student, train_settings()), denominator(made.data, ALL)
    rows = np.flatnonzero(made.data.lengths)
    calls: list[str] = []
    step.register_forward_hook(lambda *_: calls.append("forward"))
    step.register_full_backward_hook(lambda *_: calls.append("backward"))
    loss, mass = step(micro_batch(made.data, rows, due, train_settings(), student.device))
    assert (loss.dtype, mass.requires_grad) == (torch.float64, False)
    loss.backward()
    assert calls == ["forward", "backward"]
    whole = accumulated(made)
    assert loss.item() == pytest.approx(whole[0], rel=1e-6)
    assert distance(gradients(student), whole[1]) < 2e-6


def test_a_factor_on_the_loss_is_refused_since_the_head_has_its_gradient_already(
    untied: Round,
) -> None:
    student = trainable(untied.student, device=CPU)  # a GPU would have to be waited for
    step, due = step_of(student, train_settings()), denominator(untied.data, ALL)
    rows = np.flatnonzero(untied.data.lengths)
    loss, _ = step(micro_batch(untied.data, rows, due, train_settings(), student.device))
    with pytest.raises(ValueError, match=r"starts from 0\.5"):
        (0.5 * loss).backward()
