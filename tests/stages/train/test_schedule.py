"""Learning rates: warm-up, fall, floor, and independence of how a run is cut into rounds."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.train.schedule import learning_rates
from tip.stages.train.settings import TrainSettings

SCHEDULES = ["cosine", "linear", "constant"]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(**{"lr": 2.0, "warmup_steps": 4, "min_lr_frac": 0.25} | changes)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_rises_evenly_from_its_first_step_to_the_peak(schedule: str) -> None:
    rates = learning_rates(settings(schedule=schedule), 20, 0, 5)
    assert rates == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0], rel=1e-12)


def test_cosine_and_linear_meet_at_peak_middle_and_floor() -> None:
    for schedule in ("cosine", "linear"):
        rates = learning_rates(settings(schedule=schedule), 20, 0, 30)
        assert [rates[4], rates[12], rates[20], rates[29]] == pytest.approx([2, 1.25, 0.5, 0.5])


def test_cosine_falls_along_half_a_wave() -> None:
    rates = learning_rates(settings(schedule="cosine"), 20, 4, 17)
    expected = [0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(17)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_constant_stays_at_the_peak() -> None:
    assert set(learning_rates(settings(schedule="constant"), 20, 4, 100)) == {2.0}


@given(
    st.sampled_from(SCHEDULES),
    st.integers(0, 12),
    st.integers(1, 40),
    st.lists(st.integers(0, 7), max_size=6),
)
def test_the_rates_do_not_depend_on_how_steps_are_cut_into_rounds(
    schedule: str, warmup: int, horizon: int, rounds: list[int]
) -> None:
    chosen = settings(schedule=schedule, warmup_steps=warmup)
    whole = learning_rates(chosen, horizon, 0, sum(rounds))
    cut: list[float] = []
    for steps in rounds:
        cut += learning_rates(chosen, horizon, len(cut), steps)
    assert tuple(cut) == whole


@given(st.sampled_from(SCHEDULES), st.integers(0, 12), st.integers(1, 40))
def test_a_rate_lies_between_zero_and_the_peak(schedule: str, warmup: int, horizon: int) -> None:
    rates = learning_rates(settings(schedule=schedule, warmup_steps=warmup), horizon, 0, 60)
    assert all(0 < rate <= 2.0 for rate in rates)
    assert all(later <= earlier for earlier, later in pairwise(rates[warmup:]))
