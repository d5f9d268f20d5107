"""Fused scores are the plain ones, and those of dense float64; Triton's kernels are interpreted."""

import math
from collections.abc import Iterator

import interpreted
import pytest
import torch
from devices import on
from interpreted import Interpreter, interpreter
from tip.stages.signals import fused_features as fused_module
from tip.stages.signals.divergences import Features, features
from tip.stages.signals.fused_features import fuses_features
from tip.stages.signals.support import StudentIds, Support, support_ids, teacher_support
from tip.storage.errors import ConfigError
from torch import Tensor

from .test_loss import normal

# Ids of more than two blocks, and no multiple of one: a program looks at 4,096 of them at a time.
WIDE = 9_001
SHAPES = [(WIDE, WIDE), (WIDE + 7, WIDE), (WIDE, WIDE + 7), (4_096, 4_096), (4_097, 61), (12, 9)]
# What float32 gives of log-probs of size ten, in nats; see test_divergences.py.
NATS = {"rtol": 5e-6, "atol": 3e-6}
SUMS = ("student_entropy", "teacher_entropy", "reverse_kl", "forward_kl", "jsd", "hellinger")


@pytest.fixture(scope="module")
def there(device: torch.device) -> Iterator[Interpreter]:
    if device.type != "cpu":  # compiled
        yield lambda function, *given, **named: on(device, function)(*given, **named)
        return
    with interpreter() as call:
        yield call


def pair(ours: int, theirs: int, rows: int = 7) -> tuple[Tensor, Tensor, StudentIds]:
    """Return float32 logits of a student and of a teacher like it, and the student's ids."""
    width = max(ours, theirs)
    logits = normal(rows, width, seed=0, spread=3)
    teacher = logits + normal(rows, width, seed=1)
    own = logits[:, : min(ours, theirs)].topk(6).indices
    flags = torch.arange(6) < torch.arange(rows)[:, None] % 6 + 1
    known = StudentIds(own[torch.arange(rows), torch.arange(rows) % 6], own, flags)
    return logits[:, :ours].float(), teacher[:, :theirs].float(), known


def plain(
    student: Tensor, teacher: Tensor, known: StudentIds, most: int, top_p: float = 0.6
) -> tuple[Support, Features]:
    p, q = student.log_softmax(1), teacher.log_softmax(1)
    support = teacher_support(q, *support_ids(known, q, p.shape[1], top_p, most))
    return support, features(p, q, known.tokens, support.ids, support.valid)


def assert_same(
    found: tuple[Support, Features], expected: tuple[Support, Features], **near: float
) -> None:
    assert torch.equal(found[0].ids, expected[0].ids)
    assert torch.equal(found[0].valid, expected[0].valid)
    for one, other in (
        (found[0].logprobs, expected[0].logprobs),
        (found[0].tail, expected[0].tail),
    ):
        torch.testing.assert_close(one, other.float(), **(near or NATS))
    for name, one, other in zip(Features._fields, found[1], expected[1], strict=True):
        assert one.shape == other.shape, name
        if name == "signal_to_noise":  # of a ratio whose denominator may be a difference
            torch.testing.assert_close(one, other.to(one.dtype), rtol=2e-3, atol=2e-4)
            continue
        torch.testing.assert_close(
            one, other.to(one.dtype), **(near or NATS), msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("most", [0, 5, 40])
@pytest.mark.parametrize(("ours", "theirs"), SHAPES)
def test_of_the_same_logits_they_are_the_plain_ones_and_those_of_float64(
    there: Interpreter, ours: int, theirs: int, most: int
) -> None:
    student, teacher, known = pair(ours, theirs)
    found = there(interpreted.scores, student, teacher, known, ours, 0.6, most)
    assert_same(found, plain(student, teacher, known, most))
    assert_same(found, plain(student.double(), teacher.double(), known, most))


def test_one_row_is_enough_and_a_mass_of_one_keeps_all_that_may_be_kept(there: Interpreter) -> None:
    student, teacher, known = pair(WIDE, WIDE, rows=1)
    found = there(interpreted.scores, student, teacher, known, WIDE, 1.0, 64)
    assert_same(found, plain(student, teacher, known, 64, 1.0))
    assert found[0].valid.sum() >= 64


def test_equal_models_differ_by_exactly_nothing(there: Interpreter) -> None:
    student, _, known = pair(WIDE, WIDE)
    _, found = there(interpreted.scores, student, student, known, WIDE, 0.6, 5)
    for name in ("reverse_kl", "forward_kl", "jsd", "hellinger"):
        assert (getattr(found, name) == 0).all(), name
    assert torch.equal(found.student_entropy, found.teacher_entropy)
    assert (found.overlap == 1).all()


def test_logits_of_1e4_lose_no_digits_near_the_top(there: Interpreter) -> None:
    student, teacher, known = pair(WIDE, WIDE)
    student, teacher = (x.mul(64).round().div(64) for x in (student, teacher))
    found = [
        there(interpreted.scores, student + more, teacher - more, known, WIDE, 0.6, 5)
        for more in (0, 10_000)  # with which the sum is exact
    ]
    assert_same(found[1], found[0], rtol=1e-7, atol=1e-7)


def test_a_support_of_all_ids_has_a_tail_of_nothing_and_a_small_tail_its_digits(
    there: Interpreter,
) -> None:
    student, teacher, known = pair(12, 9)
    support, _ = there(interpreted.scores, student, teacher, known, 12, 1.0, 9)
    assert (support.tail == -math.inf).all()
    teacher[:, :2] += 80  # all others together are e-70
    found = there(interpreted.scores, student, teacher, known, 12, 1.0, 2)
    exact = plain(student.double(), teacher.double(), known, 2, 1.0)
    assert (found[0].tail < -60).all()
    assert_same(found, exact)


def test_ids_that_the_student_lacks_are_in_the_tail(there: Interpreter) -> None:
    student, teacher, known = pair(WIDE, WIDE + 7)
    teacher[:, -3:] += 30
    found = there(interpreted.scores, student, teacher, known, WIDE, 0.6, 5)
    assert_same(found, plain(student.double(), teacher.double(), known, 5))
    assert (found[0].ids < WIDE).all()
    assert (found[0].tail > -1e-3).all()


def test_ties_count_for_no_rank_and_share_the_last_place_of_the_top(there: Interpreter) -> None:
    student, teacher, known = pair(300, 300)
    teacher = teacher.round()
    found = there(interpreted.scores, student, teacher, known, 300, 0.6, 0)
    _, expected = plain(student, teacher, known, 0)
    assert torch.equal(found[1].teacher_rank, expected.teacher_rank)
    assert torch.equal(found[1].overlap, expected.overlap)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_give_numbers_that_are_none(
    there: Interpreter, value: float
) -> None:
    student, teacher, known = pair(WIDE, WIDE)
    student[1, 5], teacher[2, 8_900] = value, value
    _, found = there(interpreted.scores, student, teacher, known, WIDE, 0.6, 5)
    wrong = torch.tensor([False, True, True, False, False, False, False])
    assert torch.equal(~found.reverse_kl.isfinite(), wrong)


def test_where_kernels_are_wrong_or_do_not_run_scores_are_plain_and_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(fused_module, "_error", lambda _: 0.5)
    fused_module.lack.cache_clear()
    assert not fuses_features("auto", gpu)
    with pytest.raises(ConfigError, match=r"^score\.fused = true: .*wrong on this cuda: off by 5"):
        fuses_features(True, gpu)
    fused_module.lack.cache_clear()
    with pytest.raises(ConfigError, match=r"^score\.fused = true: .*need a GPU, and device is cpu"):
        fuses_features(True, torch.device("cpu"))
    assert not fuses_features("auto", torch.device("cpu"))


def test_a_kernel_that_gives_no_number_somewhere_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_ones = fused_module.features

    def broken(student: Tensor, teacher: Tensor, known: StudentIds, *cut: float) -> object:
        p, q = student.log_softmax(1), teacher.log_softmax(1)
        support = teacher_support(q, *support_ids(known, q, *cut))  # type: ignore[arg-type]
        found = plain_ones(p, q, known.tokens, support.ids, support.valid)
        return support, found._replace(jsd=found.jsd * math.nan)

    monkeypatch.setattr(fused_module, "fused_features", broken)
    assert math.isnan(fused_module._error(torch.device("cpu")))
