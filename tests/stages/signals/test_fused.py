"""The fused loss is the plain one; its kernels run in Triton's interpreter.

Given the same float32 logits both agree to 1e-5 of a row's largest number. With products in
bfloat16, of numbers that it can hold, gradients are within 2e-3 of the norm of dense float64 ones:
1.8e-3 was seen, the rounding of the logits' gradient.
"""

import math
from collections.abc import Iterator
from typing import get_args

import interpreted
import pytest
import torch
from devices import on
from hypothesis import HealthCheck, given, settings
from interpreted import Interpreter, interpreter
from tip.stages.models.head import LogitMap
from tip.stages.settings import Divergence
from tip.stages.signals import fused as fused_module
from tip.stages.signals.fused import fuses, lack
from tip.stages.signals.loss import bucket_loss_
from tip.stages.signals.objective import Mixed, Objective
from tip.stages.signals.residual import Residual
from tip.stages.signals.support import Support, merge_ids, teacher_support, top_ids
from tip.storage.errors import ConfigError
from torch import Tensor

from .test_loss import EXTREME_LOGITS, Case, any_rows, assert_same, dense, extreme_support, normal

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
CPU = torch.device("cpu")
# Ids of more than one block, and no multiple of it: a program folds 8,192 of them at a time.
WIDE = 9_001
MAPS = [LogitMap(), LogitMap(0.125), LogitMap(cap=3.0), LogitMap(2.0, 5.0)]


@pytest.fixture(scope="module")
def there(device: torch.device) -> Iterator[Interpreter]:
    if device.type != "cpu":  # compiled
        yield lambda function, *given, **named: on(device, function)(*given, **named)
        return
    with interpreter() as call:
        yield call


def wide(rows: int = 7, vocabulary: int = WIDE) -> tuple[Tensor, Support, Tensor]:
    """Return float32 logits, a ragged support with a tail, and the sampled tokens."""
    logits = normal(rows, vocabulary, seed=0, spread=3).float()
    teacher = (logits + normal(rows, vocabulary, seed=1)).double().log_softmax(1)
    tokens = torch.arange(rows) * 1_000 % vocabulary
    own = (tokens[:, None], torch.ones(rows, 1, dtype=torch.bool))
    ids, valid = merge_ids([own, top_ids(teacher, 0.6, 60)], vocabulary)
    assert len(valid.sum(1).unique()) > 2
    return logits, teacher_support(teacher, ids, valid), tokens


def objectives(tokens: Tensor) -> dict[str, Objective]:
    outside = torch.arange(len(tokens)) % 2 == 0
    residual = Residual(tokens, torch.full((len(tokens),), -9.0), outside, 2.0)
    mixed = Mixed(("reverse_kl", "forward_kl", "suppress", "none"), torch.arange(len(tokens)) % 4)
    found = {word: Objective(word) for word in DIVERGENCES}
    found |= {f"{word}, no tail": Objective(word, tail=False) for word in DIVERGENCES}
    return found | {
        "suppress": Objective("suppress", tokens=tokens),
        "clipped": Objective("reverse_kl", clip_token=0.05),
        "residual": Objective("reverse_kl", residual=residual),
        "residual, clipped": Objective("jsd", clip_token=0.05, residual=residual, beta=0.3),
        "a loss a token": Objective(mixed, tokens=tokens),
    }


def assert_rows(
    there: Interpreter,
    logits: Tensor,
    support: Support,
    objective: Objective,
    weights: Tensor | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Hold the kernels against the plain loss of the same logits, relative to each row's size."""
    expected = logits.clone()
    one = bucket_loss_(expected, support, objective, weights)
    other, found = there(interpreted.rows, logits, support, objective, weights)
    size = one.nats.abs().clamp(min=1)
    torch.testing.assert_close(other.nats / size, one.nats / size, rtol=0, atol=tolerance)
    torch.testing.assert_close(other.told, one.told, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other.tail, one.tail, rtol=tolerance, atol=tolerance)
    # far below the loss a gradient is a difference of float64 numbers that has few digits itself
    largest = torch.maximum(expected.abs().amax(1), 1e-8 * size)[:, None]
    torch.testing.assert_close(found / largest, expected / largest, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", objectives(torch.zeros(1, dtype=torch.int64)))
def test_of_the_same_logits_it_makes_what_the_plain_loss_makes_whatever_is_minimised(
    there: Interpreter, name: str
) -> None:
    logits, support, tokens = wide()
    assert_rows(there, logits, support, objectives(tokens)[name], normal(7, seed=5).abs())


@pytest.mark.parametrize("vocabulary", [61, 4_096, 8_192, 8_193])
def test_a_vocabulary_need_be_no_multiple_of_a_block(there: Interpreter, vocabulary: int) -> None:
    logits, support, _ = wide(vocabulary=vocabulary)
    assert_rows(there, logits, support, Objective("reverse_kl"))


def test_one_row_is_enough(there: Interpreter) -> None:
    logits, support, _ = wide()
    assert_rows(there, logits[:1], support.rows(0, 1), Objective("reverse_kl"))


@pytest.mark.parametrize("tail", [-0.3, -69.0, -60000.0, -math.inf])
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl"])
def test_extreme_logits_and_a_tail_of_nothing_are_what_they_are_to_the_plain_loss(
    there: Interpreter, divergence: Divergence, tail: float
) -> None:
    assert_rows(there, EXTREME_LOGITS, extreme_support(tail=tail), Objective(divergence))


def test_logits_of_1e4_lose_no_digits_near_the_top(there: Interpreter) -> None:
    logits, support, _ = wide()
    logits = logits.mul(64).round().div(64)  # so that the sum with 10,000 is exact
    found = [
        there(interpreted.rows, logits + more, support, Objective("reverse_kl"))
        for more in (0, 10_000)
    ]
    torch.testing.assert_close(found[1][0].nats, found[0][0].nats, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-6, atol=1e-9)


@given(any_rows())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_finite_numbers_give_what_the_plain_loss_gives(
    there: Interpreter, case: tuple[Tensor, Support]
) -> None:
    logits, support = case
    assert_rows(there, logits, support, Objective("reverse_kl"), tolerance=2e-5)


def test_logits_that_are_no_numbers_give_a_loss_that_is_none(there: Interpreter) -> None:
    logits, support, _ = wide(rows=4)
    for row, (place, value) in enumerate([(5, math.nan), (5, math.inf), (8_900, math.nan)]):
        assert place not in support.ids[row]
        logits[row, place] = value
    loss, gradient = there(interpreted.rows, logits, support, Objective("reverse_kl"))
    assert loss.nats.isnan().tolist() == [True, True, True, False]
    assert gradient.isnan().any(1).tolist() == [True, True, True, False]


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd"])
def test_ids_that_only_the_student_has_get_no_gradient_where_nothing_else_is_outside(
    there: Interpreter, divergence: Divergence
) -> None:
    teacher = normal(4, 700, seed=0).log_softmax(1)
    ids = torch.arange(700).expand(4, -1)
    support = teacher_support(teacher, ids, torch.ones_like(ids, dtype=torch.bool))
    logits = normal(4, 705, seed=1).float()  # five rows of padding in the student's head
    exact = logits[:, :700].double().requires_grad_()
    expected, _ = dense(exact, support, divergence)
    expected.sum().backward()
    loss, gradient = there(interpreted.rows, logits, support, Objective(divergence))
    torch.testing.assert_close(loss.nats, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient[:, :700].double(), exact.grad, rtol=0, atol=1e-6)
    assert (gradient[:, 700:] == 0).all()
    assert (loss.tail == -math.inf).all()


def run(
    there: Interpreter,
    case: Case,
    support: Support,
    divergence: Divergence,
    dtype: torch.dtype = torch.float32,
    chunk: int = 5,
    **how: object,
) -> dict[str, Tensor]:
    tensors = (case.hidden.float(), case.weight.float(), case.bias.float())
    objective = Objective(divergence)
    return there(
        interpreted.loss, *tensors, case.map, support, case.weights, objective, chunk, dtype, **how
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("map", MAPS, ids=str)
def test_with_head_and_bias_it_is_the_dense_divergence_over_buckets_in_value_and_gradient(
    there: Interpreter, divergence: Divergence, map: LogitMap
) -> None:
    case = Case()
    case.map = map
    for support in (case.sparse(), case.whole()):
        found = run(there, case, support, divergence)
        assert_same(found, case.reference(support, divergence), 3e-6)


@pytest.mark.parametrize("chunk", [1, 2, 23, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_chunk_changes_rounding_only(
    there: Interpreter, chunk: int, dtype: torch.dtype
) -> None:
    case = Case()
    expected = run(there, case, case.sparse(), "reverse_kl", dtype)
    found = run(there, case, case.sparse(), "reverse_kl", dtype, chunk)
    assert_same(found, {name: value.double() for name, value in expected.items()}, 1e-6)


def test_a_chunk_of_many_rows_fills_the_tiles_of_its_products(there: Interpreter) -> None:
    rows = [fused_module._rows(chunk, torch.bfloat16) for chunk in (1, 383, 400, 772)]
    assert rows == [(1, 1), (383, 128), (384, 128), (768, 256)]
    case = rounded(Case(tokens=390))
    expected = run(there, case, case.sparse(), "reverse_kl", torch.bfloat16, chunk=390)
    found = run(there, case, case.sparse(), "reverse_kl", torch.bfloat16, chunk=20)
    assert_same(found, {name: value.double() for name, value in expected.items()}, 1e-6)


def rounded(case: Case) -> Case:
    """Return it with states and a head that bfloat16 can hold."""
    case.hidden, case.weight = case.hidden.bfloat16().double(), case.weight.bfloat16().double()
    return case


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("map", [LogitMap(), LogitMap(2.0, 5.0)], ids=str)
def test_in_bfloat16_gradients_are_within_2e_3_of_dense_float64(
    there: Interpreter, divergence: Divergence, map: LogitMap
) -> None:
    case = rounded(Case(tokens=40, vocabulary=3_000, width=64))
    case.weight /= 8  # exact; logits of size one
    case.map = map
    found = run(there, case, case.sparse(), divergence, torch.bfloat16, chunk=18)
    expected = case.reference(case.sparse(), divergence)
    assert_same(found, {name: expected[name] for name in ("loss", "mass")}, 1e-6)
    for name in ("hidden", "weight", "bias"):
        off = (found[name].double() - expected[name]).norm() / expected[name].norm()
        assert off < 2e-3, name


def test_no_tokens_give_no_loss_and_gradients_of_nothing(there: Interpreter) -> None:
    case = Case()
    case.hidden, case.weights = case.hidden[:0], case.weights[:0]
    found = run(there, case, case.sparse().rows(0, 0), "reverse_kl", torch.bfloat16)
    assert {name: len(value) for name, value in found.items()} == {
        "loss": 0,
        "mass": 0,
        "hidden": 0,
    }


def test_gradients_are_added_to_those_that_are_there_and_a_frozen_head_has_none(
    there: Interpreter,
) -> None:
    case = Case()
    once = run(there, case, case.sparse(), "reverse_kl", torch.bfloat16)
    twice = run(there, case, case.sparse(), "reverse_kl", torch.bfloat16, times=2)
    assert_same(twice, {name: 2 * once[name].double() for name in ("weight", "bias")}, 1e-6)
    assert_same(twice, {name: once[name].double() for name in ("loss", "hidden")}, 0)
    frozen = run(there, case, case.sparse(), "reverse_kl", torch.bfloat16, frozen=True)
    assert frozen.keys() == {"loss", "mass", "hidden"}
    assert_same(frozen, {"hidden": once["hidden"].double()}, 0)


@pytest.mark.parametrize("wanted", ["auto", False])
def test_a_cpu_takes_the_plain_way_unless_it_is_told_otherwise(wanted: object) -> None:
    assert not fuses(wanted, CPU, torch.float32)


def test_a_fused_loss_without_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"train\.fused = true: .* GPU.*cpu; set .*'auto'"):
        fuses(True, CPU, torch.float32)


def test_the_kernels_are_tried_before_they_are_used(
    there: Interpreter, device: torch.device
) -> None:
    assert there(lack, device, torch.float32) is None
    assert there(lack, device, torch.bfloat16) is None
    assert there(fuses, True, device, torch.bfloat16)
