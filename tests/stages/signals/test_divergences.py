"""Every feature agrees with a dense float64 reference, on easy, near-equal and extreme rows."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices import computed_on
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_ier import ratio_bounds, signal_and_noise
from tip.stages.arrays.log_softmax import log_softmax
from tip.stages.signals.divergences import (
    Features,
    features,
    signal_to_noise,
    support_features,
)
from tip.stages.signals.support import Support, merge_ids, teacher_support, top_ids
from tip.stages.signals.supports import of_chunk
from torch import Tensor

DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "hellinger")
# What float32 gives: log-probs are rounded at 1e-7 of their size, sums over 300 ids at 1e-6.
NATS = {"rtol": 5e-6, "atol": 2e-6}


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with computed_on(
        device, globals(), "features", "log_softmax", "signal_to_noise", "support_features"
    ):
        yield


def logits(rows: int, vocabulary: int, seed: int, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)


def some_ids(rows: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a sampled token [C] and a support that holds it, ids and flags [C, K]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, vocabulary, (rows, 5), generator=generator)
    ids, valid = merge_ids([(draws, torch.ones_like(draws, dtype=torch.bool))], vocabulary)
    return draws[:, 0], ids, valid


def reference(
    student: Tensor, teacher: Tensor, tokens: Tensor, ids: Tensor, valid: Tensor
) -> dict[str, Any]:
    """Return the features from float64 logits, row by row, by their textbook definitions.

    In place of `signal_to_noise`, `on_support`: both models' log-probs that it is made of.
    """
    rows = []
    for row, token in enumerate(tokens.tolist()):
        log_p, log_q = (x[row].double().log_softmax(0).numpy() for x in (student, teacher))
        p, q = np.exp(log_p), np.exp(log_q)
        common = min(len(p), len(q))
        a, b, log_a, log_b = p[:common], q[:common], log_p[:common], log_q[:common]
        log_m = np.logaddexp(log_a, log_b) - math.log(2)
        kept = [i for i, true in zip(ids[row].tolist(), valid[row].tolist(), strict=True) if true]
        rows.append(
            {
                "student_entropy": -(p * log_p).sum(),
                "teacher_entropy": -(q * log_q).sum(),
                "reverse_kl": (a * (log_a - log_b)).sum(),
                "forward_kl": (b * (log_b - log_a)).sum(),
                "jsd": (a * (log_a - log_m)).sum() / 2 + (b * (log_b - log_m)).sum() / 2,
                "hellinger": math.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum() / 2),
                "student_logprob": log_p[token],
                "teacher_logprob": log_q[token],
                "teacher_rank": sum(1 for other in log_q if other > log_q[token]),
                "student_mass": sum(p[i] for i in kept),
                "teacher_mass": sum(q[i] for i in kept),
                "teacher_mass_top": q[np.argsort(-log_a)[:16]].sum(),
                "overlap": len({*np.argsort(-log_a)[:16]} & {*np.argsort(-log_q)[:16]})
                / min(16, common),
                "log_p": log_p[kept],
                "log_q": log_q[kept],
            }
        )
    names = [name for name in Features._fields if name != "signal_to_noise"]
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    return columns | {"on_support": [(row["log_p"], row["log_q"]) for row in rows]}


def computed(
    student: Tensor, teacher: Tensor, tokens: Tensor, ids: Tensor, valid: Tensor
) -> dict[str, np.ndarray]:
    """Return the features that the stage computes, from logits in their own precision."""
    found = features(log_softmax(student), log_softmax(teacher), tokens, ids, valid)
    return {name: value.numpy() for name, value in found._asdict().items()}


def assert_features(found: dict, expected: dict, rtol: float, atol: float) -> None:
    for name in Features._fields:
        if name != "signal_to_noise":
            np.testing.assert_allclose(found[name], expected[name], rtol, atol, err_msg=name)
    for ratio, (log_p, log_q) in zip(found["signal_to_noise"], expected["on_support"], strict=True):
        error = atol + rtol * float(np.abs([log_p, log_q]).max())
        low, high = ratio_bounds(log_p, log_q, error)
        assert low - 1e-6 * abs(low) <= ratio <= high * (1 + 1e-6)


CASES = {
    "different models": (logits(40, 300, 0), logits(40, 300, 1)),
    "related models": (logits(40, 300, 0), logits(40, 300, 0) + logits(40, 300, 2, 0.3)),
    "near-equal models": (logits(40, 300, 0), logits(40, 300, 0) + logits(40, 300, 2, 1e-3)),
    "nearly deterministic models": (logits(40, 300, 0, 40.0), logits(40, 300, 1, 40.0)),
    "larger teacher": (logits(40, 300, 0), logits(40, 320, 1)),
    "larger student": (logits(40, 320, 0), logits(40, 300, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_in_float64_every_feature_is_the_reference(case: str) -> None:
    student, teacher = CASES[case]
    chosen = some_ids(40, 300)
    expected = reference(student, teacher, *chosen)
    assert_features(computed(student, teacher, *chosen), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_in_float32_every_feature_is_the_reference_to_2e_6_nats(case: str) -> None:
    student, teacher = (x.float() for x in CASES[case])
    chosen = some_ids(40, 300)
    expected = reference(student, teacher, *chosen)
    assert_features(computed(student, teacher, *chosen), expected, **NATS)


def test_logits_of_1e4_give_finite_features_that_agree_with_the_reference() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4 - 1, -1e4], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4 - 2, 1e4, -1e4], [1e4, 1e4, 1e4]])
    tokens, ids = torch.tensor([0, 1, 2]), torch.tensor([[0, 1]] * 3)
    chosen = (tokens, ids, torch.ones_like(ids, dtype=torch.bool))
    expected = reference(student, teacher, *chosen)
    assert expected["reverse_kl"][0] == 2e4
    assert_features(computed(student, teacher, *chosen), expected, **NATS)


@pytest.mark.parametrize("vocabulary", [2, 50, 4096])
def test_equal_models_have_divergences_of_exactly_zero(vocabulary: int) -> None:
    same = logits(20, vocabulary, 3, 5.0).float()
    found = computed(same, same, *some_ids(20, vocabulary))
    for name in DIVERGENCES:
        assert (found[name] == 0).all(), name


def test_the_teacher_rank_counts_preferred_ids_and_no_ties() -> None:
    teacher = torch.tensor([[5.0, 7.0, 5.0, 5.0, 9.0]])
    for token, rank in ((4, 0), (1, 1), (0, 2), (2, 2), (3, 2)):
        chosen = (torch.tensor([token]), torch.tensor([[token]]), torch.tensor([[True]]))
        assert computed(teacher, teacher, *chosen)["teacher_rank"].tolist() == [rank]


def test_the_overlap_is_over_the_top_16_and_a_shared_last_place_counts_for_all() -> None:
    student = torch.arange(40.0)[None]
    for shift, share in ((0, 1.0), (4, 0.75), (16, 0.0)):
        chosen = (torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[True]]))
        assert computed(student, student.roll(shift), *chosen)["overlap"].tolist() == [share]
    flat = torch.zeros(1, 40)
    assert computed(student, flat, *chosen)["overlap"].tolist() == [1.0]


def test_the_signal_to_noise_is_that_of_the_paper_where_nothing_is_small() -> None:
    log_p, log_q = (logits(1, 6, seed, 1.0) for seed in (3, 4))
    signal, noise = signal_and_noise(log_p[0].numpy(), log_q[0].numpy())
    found = signal_to_noise(log_p, log_q, torch.ones(1, 6, dtype=torch.bool))
    assert found.item() == pytest.approx(signal / noise, rel=1e-12)
    assert 0.01 < signal / noise < 10


def test_the_signal_to_noise_forgets_scale_and_padding_and_is_0_where_nothing_differs() -> None:
    log_p, log_q = (logits(30, 6, seed) for seed in (3, 4))
    valid = torch.ones(30, 6, dtype=torch.bool)
    whole = signal_to_noise(log_p, log_q, valid)
    padded = [torch.cat([x + 7.0, torch.full((30, 2), 99.0)], 1) for x in (log_p, log_q)]
    beside = torch.cat([valid, torch.zeros(30, 2, dtype=torch.bool)], 1)
    torch.testing.assert_close(signal_to_noise(*padded, beside), whole, rtol=1e-10, atol=0)
    assert not signal_to_noise(log_p, log_p - 3, valid).gt(1e-12).any()
    alone = torch.zeros(30, 6, dtype=torch.bool).index_fill_(1, torch.tensor([2]), True)
    assert not signal_to_noise(log_p, log_q, alone).any()


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e4])
def test_the_signal_to_noise_is_finite_and_never_negative_in_float32(spread: float) -> None:
    for size in (2, 3, 40):
        log_p, log_q = (logits(50, size, seed, spread).float().log_softmax(1) for seed in (3, 4))
        found = signal_to_noise(log_p, log_q, torch.ones(50, size, dtype=torch.bool))
        assert found.isfinite().all()
        assert (found >= 0).all()
        assert (found <= 900 / 1e-8).all()


def test_of_a_drawn_support_the_signal_to_noise_is_over_other_ids_than_the_masses() -> None:
    student, teacher = (log_softmax(x) for x in CASES["different models"])
    tokens, ids, valid = some_ids(40, 300)
    _, drawn, flags = some_ids(40, 300, 9)
    plain = features(student, teacher, tokens, ids, valid)
    found = features(student, teacher, tokens, drawn, flags, led=(ids, valid))
    assert found.signal_to_noise.equal(plain.signal_to_noise)
    assert found.student_mass.equal(features(student, teacher, tokens, drawn, flags).student_mass)


def test_hellinger_and_masses_stay_within_0_and_1() -> None:
    apart = torch.full((1, 400), -1e4)
    student, teacher = apart.clone(), apart.clone()
    student[0, 0], teacher[0, 1] = 1e4, 1e4
    ids = torch.arange(400)[None]
    found = computed(
        student, teacher, torch.tensor([0]), ids, torch.ones_like(ids, dtype=torch.bool)
    )
    assert found["hellinger"].tolist() == [1.0]
    flat = logits(30, 400, 5, 0.01).float()
    ids = ids.expand(30, -1)
    found = computed(flat, flat, ids[:, 0], ids, torch.ones_like(ids, dtype=torch.bool))
    assert (found["student_mass"] <= 1).all()


def test_over_a_large_vocabulary_features_are_within_float32_of_the_reference() -> None:
    a, b = (logits(1, 262_144, seed).float() for seed in (1, 2))
    chosen = some_ids(1, 262_144)
    assert_features(computed(a, b, *chosen), reference(a, b, *chosen), **NATS)


# Eighths: where two logits differ, their rounded log-probs differ too, so ranks are definite.
finite_rows = arrays(np.int32, (3, 6), elements=st.integers(-80_000, 80_000)).map(
    lambda eighths: eighths.astype(np.float32) / 8
)


@given(finite_rows, finite_rows)
def test_finite_logits_give_finite_features_within_float32_of_the_reference(
    student: np.ndarray, teacher: np.ndarray
) -> None:
    a, b = torch.from_numpy(student), torch.from_numpy(teacher)
    chosen = some_ids(3, 6)
    found = computed(a, b, *chosen)
    assert all(np.isfinite(value).all() for value in found.values())
    # A log-prob of -2e4 is itself rounded at 1e-3.
    assert_features(found, reference(a, b, *chosen), rtol=1e-5, atol=1e-5)


def over_support(student: Tensor, teacher: Tensor, top_p: float, most: int) -> tuple[dict, dict]:
    """Return features over a support led by the student, and exact ones of the same rows."""
    p, q = student.log_softmax(1), teacher.log_softmax(1)
    shared = p[:, : q.shape[1]].exp()
    tokens = shared.multinomial(1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    sampled = (tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool))
    groups = [sampled, top_ids(p, top_p, most), top_ids(q, top_p, most)]
    ids, valid = merge_ids(groups, shared.shape[1])
    exact = features(p, q, tokens, ids, valid)
    found = support_features(p, teacher_support(q, ids, valid), tokens, exact.teacher_entropy)
    return found._asdict(), exact._asdict()


def test_over_the_whole_vocabulary_the_support_gives_the_exact_features() -> None:
    student, teacher = CASES["different models"]
    found, exact = over_support(student, teacher, 1.0, 300)
    for name in Features._fields:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("case", ["different models", "related models", "near-equal models"])
@pytest.mark.parametrize(("top_p", "most"), [(0.3, 1), (0.9, 8), (0.99, 40)])
def test_divergences_over_the_support_are_lower_bounds(case: str, top_p: float, most: int) -> None:
    found, exact = over_support(*CASES[case], top_p, most)
    for name in DIVERGENCES:
        assert (found[name] <= exact[name] + 1e-12).all(), name
    for name in (
        "student_logprob",
        "teacher_logprob",
        "student_mass",
        "teacher_mass",
        "signal_to_noise",
    ):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-12, atol=1e-12, msg=name)
    assert (found["teacher_rank"] <= exact["teacher_rank"]).all()


def test_divergences_over_the_support_come_close_as_it_grows() -> None:
    student, teacher = CASES["related models"]
    gaps = []
    for top_p in (0.5, 0.9, 0.99, 0.9999):
        found, exact = over_support(student, teacher, top_p, 300)
        gaps.append(float((exact["reverse_kl"] - found["reverse_kl"]).mean()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * gaps[0]


def test_storage_moves_a_divergence_over_the_support_by_the_rounding_of_float16_only() -> None:
    student, teacher = CASES["related models"]
    p, q = student.log_softmax(1), teacher.log_softmax(1)
    tokens, ids, valid = some_ids(40, 300)
    exact = teacher_support(q, ids, valid)
    stored = of_chunk(exact).logprobs
    rounded = exact.logprobs.clone()
    rounded[valid] = torch.from_numpy(stored.values).double()
    near = Support(ids, valid, rounded, exact.tail)
    a, b = (support_features(p, s, tokens, tokens * 0.0) for s in (exact, near))
    # each log-prob moves by at most 2^-11 of itself
    bound = 2.0**-11 * (p.gather(1, ids).exp() * exact.logprobs.abs()).masked_fill(~valid, 0).sum(1)
    assert ((a.reverse_kl - b.reverse_kl).abs() <= bound + 1e-12).all()


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_with_padding_on_one_side_and_all_shared_ids_kept_the_tail_is_no_term(larger: str) -> None:
    sizes = (5, 8) if larger == "teacher" else (8, 5)
    student, teacher = logits(10, sizes[0], 0), logits(10, sizes[1], 1)
    found, exact = over_support(student, teacher, 1.0, 8)
    for name in (*DIVERGENCES, "student_mass", "teacher_mass"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-12, atol=1e-12, msg=name)
