"""A training step whose loss is fused is the step that it is without; Triton is interpreted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from interpreted import Interpreter, interpreter
from tiny_training import Round, accumulated, distance, step_of, train_settings, trainable
from tip.stages.signals import fused
from tip.stages.train.settings import TrainSettings
from tip.storage.errors import ConfigError


@pytest.fixture(scope="module")
def there() -> Iterator[Interpreter]:
    with interpreter() as call:
        yield call


@pytest.mark.parametrize(
    "changes", [{"loss": "reverse_kl"}, {"loss": "jsd"}, {"tail": "residual"}, {"clip_token": 0.05}]
)
@pytest.mark.parametrize("which", ["untied", "tied"])
def test_loss_and_gradient_of_a_step_are_those_of_the_plain_loss(
    there: Interpreter, request: pytest.FixtureRequest, which: str, changes: dict[str, Any]
) -> None:
    made: Round = request.getfixturevalue(which)
    loss, expected = accumulated(made, **changes)
    again, found = there(accumulated, made, fused=True, **changes)
    assert again == pytest.approx(loss, rel=1e-6)
    assert distance(found, expected) < 2e-6
    assert any(not torch.equal(found[name], expected[name]) for name in found)  # by other kernels


def test_under_autocast_the_head_is_multiplied_in_bfloat16_and_comes_as_close_as_the_body(
    there: Interpreter, untied: Round
) -> None:
    loss, expected = accumulated(untied)
    again, found = there(accumulated, untied, fused=True, autocast="bfloat16")
    assert again == pytest.approx(loss, rel=0.03)  # as without, see test_step.py
    assert distance(found, expected) < 0.1


def test_a_step_without_a_gpu_that_should_be_fused_is_refused(untied: Round) -> None:
    with pytest.raises(ConfigError, match=r"train\.fused = true: .*need a GPU"):
        accumulated(untied, fused=True)


def test_a_gpu_on_which_the_kernels_fail_takes_the_plain_way_and_says_why(
    untied: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    gpu = torch.device("cuda")
    monkeypatch.setattr(fused, "_error", fail)
    fused.lack.cache_clear()
    assert not fused.fuses("auto", gpu, torch.float32)
    with pytest.raises(ConfigError, match="Failed to find C compiler"):
        fused.fuses(True, gpu, torch.float32)
    monkeypatch.setattr(fused, "_error", lambda *_: float("nan"))
    fused.lack.cache_clear()
    assert not fused.fuses("auto", gpu, torch.float32)
    assert "wrong on this cuda: off by nan" in (fused.lack(gpu, torch.float32) or "")
    fused.lack.cache_clear()


def test_a_fused_chunk_is_larger_unless_the_user_says_how_large() -> None:
    settings = TrainSettings()
    assert (settings.chunk(fused=False), settings.chunk(fused=True)) == (1 << 24, 7 << 24)
    chosen = TrainSettings(chunk_elements=5)
    assert (chosen.chunk(fused=False), chosen.chunk(fused=True)) == (5, 5)


def test_on_a_cpu_nothing_is_said_of_a_loss_that_is_not_fused(untied: Round) -> None:
    assert step_of(trainable(untied.student), train_settings()).unfused() is None
    assert np.isfinite(accumulated(untied)[0])
