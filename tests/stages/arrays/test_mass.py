"""One rule says how far a mass reaches, for tensors and arrays alike."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tip.stages.arrays.mass import up_to_mass

weights = arrays(np.float64, (3, 9), elements=st.floats(0, 1) | st.sampled_from([0.0, 1e-300, 1.0]))


def falling(numbers: np.ndarray) -> np.ndarray:
    """Return rows of probabilities, falling."""
    numbers = numbers + 1e-12
    return -np.sort(-numbers / numbers.sum(1, keepdims=True), axis=1)


@given(weights, st.floats(0.01, 1) | st.just(1.0))
def test_tensors_and_arrays_are_cut_alike(numbers: np.ndarray, top_p: float) -> None:
    probabilities = falling(numbers)
    kept = up_to_mass(probabilities, top_p)
    assert kept.dtype == bool
    again = up_to_mass(torch.from_numpy(probabilities), top_p)
    assert again.numpy().tolist() == kept.tolist()


@given(weights, st.floats(0.01, 0.99))
def test_the_smallest_leading_set_that_reaches_the_mass_is_kept(
    numbers: np.ndarray, top_p: float
) -> None:
    probabilities = falling(numbers)
    for row, kept in zip(probabilities, up_to_mass(probabilities, top_p), strict=True):
        count = int(kept.sum())
        assert kept.tolist() == [True] * count + [False] * (len(row) - count)
        assert row[: count - 1].sum() < top_p + 1e-12
        assert row[:count].sum() >= min(top_p, row.sum()) - 1e-12


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_at_least_one_is_kept_and_a_mass_of_one_keeps_all(top_p: float) -> None:
    # 0.9 + 0.1 rounds to 1, so the last two lie behind the whole mass
    kept = up_to_mass(np.array([[0.9, 0.1, 1e-30, 0.0]]), top_p)
    assert kept.tolist() == [[True, *[top_p == 1] * 3]]


def test_the_process_that_owns_vllm_needs_no_torch_to_cut() -> None:
    program = (
        "import sys, tip.stages.engines.vllm.worker\n"
        "print(sorted({'torch', 'transformers', 'duckdb', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
