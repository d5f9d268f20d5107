"""From what an engine fetched the support is cut as from whole rows of log-probs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.signals.fetched import Fetched, cut_support
from tip.stages.signals.support import StudentIds, support_ids, teacher_support
from tip.stages.signals.supports import of_chunk
from tip.storage.errors import NumericsError

VOCABULARY = 12


def fetched(
    log_probs: np.ndarray, tokens: np.ndarray, top: int, student: np.ndarray | None = None
) -> Fetched:
    """Return an engine's answer: the token, its `top` most probable, the student's ids if given.

    student: [N, S] ids that the engine is asked for, -1 pads; None where it cannot be asked.
    """
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    ids = np.concatenate([tokens[:, None], order], 1)
    values = np.take_along_axis(log_probs, ids, 1)
    if student is None:
        none = np.zeros((len(ids), 0), dtype=int)
        return Fetched(ids, values, none, none.astype(bool), None)
    given_ = np.take_along_axis(log_probs, np.maximum(student, 0), 1)
    return Fetched(ids, values, student, student >= 0, given_)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int, int]:
    """Return log-probs [N, V], tokens [N], the student's ids [N, S], top_p, most, common ids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = draw(st.sampled_from([0.5, 3.0])) * rng.standard_normal((4, VOCABULARY))
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    student = np.array([rng.permutation(VOCABULARY)[:5] for _ in range(4)])
    student = np.where(rng.random(student.shape) < 0.4, -1, student)
    top_p, most = draw(st.floats(0.05, 1.0)), draw(st.integers(0, VOCABULARY))
    common = draw(st.integers(VOCABULARY - 3, VOCABULARY))
    return log_probs, rng.integers(0, common, 4), student, top_p, most, common


@given(cases(), st.booleans())
def test_an_engine_that_knows_every_id_gives_the_support_of_whole_rows(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float, int, int], asked: bool
) -> None:
    log_probs, tokens, student, top_p, most, common = case
    whole = torch.from_numpy(log_probs)
    known = StudentIds(
        *(torch.from_numpy(a) for a in (tokens, np.maximum(student, 0), student >= 0))
    )
    ids, valid = support_ids(known, whole, common, top_p, most)
    expected = of_chunk(teacher_support(whole, ids, valid))
    answer = fetched(log_probs, tokens, VOCABULARY, student)
    if not asked:  # the student's ids are then found among the engine's own
        answer = Fetched(answer.ids, answer.logprobs, student, student >= 0, None)
    found, entropy = cut_support(answer, VOCABULARY, common, top_p, most)
    assert found.ids.counts.tolist() == expected.ids.counts.tolist()
    assert found.ids.values.tolist() == expected.ids.values.tolist()
    np.testing.assert_allclose(
        found.logprobs.values.astype(float), expected.logprobs.values.astype(float), rtol=2e-3
    )
    np.testing.assert_allclose(np.exp(found.tail), np.exp(expected.tail), atol=1e-6)
    np.testing.assert_allclose(entropy, -(np.exp(log_probs) * log_probs).sum(1), atol=1e-6)


def test_a_support_that_is_the_whole_vocabulary_has_no_tail() -> None:
    log_probs = np.log(np.array([[0.5, 0.25, 0.125, 0.125]]))
    answer = fetched(log_probs, np.array([2]), 4)
    supports, entropy = cut_support(answer, 4, 4, 1.0, 4)
    assert supports.ids.values.tolist() == [0, 1, 2, 3]
    values = supports.logprobs.values.astype(float)
    np.testing.assert_allclose(np.exp(values), np.exp(log_probs[0]), rtol=1e-3)
    assert supports.tail.tolist() == [-math.inf]
    np.testing.assert_allclose(entropy, -(np.exp(log_probs) * log_probs).sum(1), atol=1e-6)


def test_an_id_that_the_student_lacks_is_in_the_tail() -> None:
    log_probs = np.log(np.array([[0.5, 0.25, 0.125, 0.125]]))
    supports, _ = cut_support(fetched(log_probs, np.array([2]), 4), 4, 3, 1.0, 4)
    assert supports.ids.values.tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.exp(supports.tail), 0.125, rtol=1e-6)


def test_what_was_not_fetched_is_in_the_tail_and_no_more_probable_than_the_last_that_was() -> None:
    log_probs = np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))
    token = np.array([1])
    supports, entropy = cut_support(fetched(log_probs, token, 3), 5, 5, 0.5, 5)
    assert supports.ids.values.tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(supports.tail), 0.3, rtol=1e-6)
    assert entropy < -(np.exp(log_probs) * log_probs).sum(1)
    # the engine says too little of its last id: what is left may be no more than its two others
    small = fetched(log_probs, token, 3)
    values = np.where(small.ids == 2, np.log(0.01), small.logprobs)
    supports, _ = cut_support(Fetched(small.ids, values, *_none(), None), 5, 5, 0.5, 5)
    np.testing.assert_allclose(np.exp(supports.tail), 0.01 + 2 * 0.01, rtol=1e-6)


def _none() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, 0), dtype=int), np.zeros((1, 0), dtype=bool)


def test_ids_that_hold_more_than_all_mass_are_refused() -> None:
    log_probs = np.log(np.array([[0.9, 0.2, 0.1]]))
    with pytest.raises(NumericsError, match=r"a mass of 1\.2, as no distribution does"):
        cut_support(fetched(log_probs, np.array([0]), 3), 3, 3, 1.0, 3)


def test_a_slice_holds_the_numbers_of_its_tokens() -> None:
    log_probs = np.log(np.full((3, 4), 0.25))
    answer = fetched(log_probs, np.array([0, 1, 2]), 4, np.array([[0, 1], [2, -1], [3, 0]]))
    part = answer.rows(slice(1, 3))
    assert part.ids[:, 0].tolist() == [1, 2]
    assert part.student.tolist() == [[2, -1], [3, 0]]
    assert part.valid.tolist() == [[True, False], [True, True]]
    assert part.given is not None
    assert part.given.shape == (2, 2)
