"""The state at a place predicts the token behind it, whatever the prompt, the batch or the cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import load, log_probs, write_model
from tip.stages.arrays.ragged import Ragged
from tip.stages.models.language_model import LanguageModel
from tip.stages.signals.alignment import (
    predicting_places,
    predicting_states,
    read_lengths,
    states_at,
    token_logprobs,
)

NATS = 3e-5  # of float32 against float64
LENGTHS = ((5, 3), (1, 7), (9, 1), (2, 4))  # of prompts and responses

rows_of_positions = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 7), unique=True).map(sorted)), max_size=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "gpt2", seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load(folder)


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 60, prompt) for prompt, _ in LENGTHS]


@pytest.fixture(scope="module")
def responses() -> Ragged:
    counts = np.array([count for _, count in LENGTHS], dtype=np.int32)
    return Ragged(np.random.default_rng(1).integers(2, 60, counts.sum()), counts)


@given(rows_of_positions)
def test_the_token_behind_a_predicting_place_is_the_one_it_predicts(
    case: list[tuple[int, list[int]]],
) -> None:
    # prompt ids are negative, the response token at position t of row r is 100 r + t
    sequences = [
        [-1] * length + [100 * r + t for t in range(8)] for r, (length, _) in enumerate(case)
    ]
    prompt_lengths = np.array([length for length, _ in case], dtype=int)
    counts = np.array([len(positions) for _, positions in case], dtype=int)
    positions = np.array([t for _, positions in case for t in positions], dtype=int)
    rows, places = predicting_places(prompt_lengths, counts, positions)
    found = [sequences[r][place + 1] for r, place in zip(rows, places, strict=True)]
    assert found == [100 * r + t for r, (_, positions) in enumerate(case) for t in positions]


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_model_reads_up_to_the_state_that_predicts_the_last_token(
    prompt: int, count: int
) -> None:
    one = np.array([prompt]), np.array([1]), np.array([count - 1])
    _, (last,) = predicting_places(*one)
    assert read_lengths(np.array([prompt]), np.array([count])).tolist() == [last + 1]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0], [3]], ids=str)
@torch.inference_mode()
def test_states_give_the_log_probs_of_each_rollout_alone(
    folder: Path,
    model: LanguageModel,
    prompts: list[np.ndarray],
    responses: Ragged,
    rows: list[int],
) -> None:
    states = predicting_states(model, prompts, responses, np.array(rows))
    found = model.head.logits(states).log_softmax(1).numpy()
    expected = [log_probs(folder, prompts[r].tolist(), responses.row(r).tolist()) for r in rows]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=NATS)


@torch.inference_mode()
def test_states_at_some_positions_are_those_among_all(
    model: LanguageModel, prompts: list[np.ndarray], responses: Ragged
) -> None:
    every = predicting_states(model, prompts, responses, np.arange(4))
    counts, positions = np.array([2, 1, 0, 2]), np.array([0, 2, 6, 1, 2])
    last = [2, 6, None, 2]  # what stands behind is not read
    sequences = [
        np.concatenate([prompts[r], responses.row(r)[: last[r]] if last[r] else []]).astype(int)
        for r in range(4)
    ]
    found = states_at(model, sequences, prompts, counts, positions)
    places = np.repeat(responses.offsets[:-1], counts) + positions
    torch.testing.assert_close(found, every[torch.from_numpy(places)])


@pytest.mark.parametrize("chunk_elements", [1, 130, 1 << 20])
@torch.inference_mode()
def test_log_probs_of_tokens_are_those_of_whole_rows_of_logits(
    folder: Path,
    model: LanguageModel,
    prompts: list[np.ndarray],
    responses: Ragged,
    chunk_elements: int,
) -> None:
    states = predicting_states(model, prompts, responses, np.arange(4))
    found = token_logprobs(model, states, responses.values, chunk_elements)
    rows = [log_probs(folder, p.tolist(), responses.row(r).tolist()) for r, p in enumerate(prompts)]
    expected = np.concatenate(rows)[np.arange(len(found)), responses.values]
    np.testing.assert_allclose(found, expected, atol=NATS)
    assert found.dtype == np.float64
