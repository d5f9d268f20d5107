"""Ground lost on unselected tokens is noticed, and nothing else is called so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.pipeline.metrics import RoundMetrics, by_round
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.status import print_run
from tip.pipeline.stability import held_out_warning, lost_ground, rounds_that_lost_ground, warning

from .conftest import MakeConfig


def rounds(*values: float, all_tokens: float = 0.2) -> dict[int, RoundMetrics]:
    """Return rounds with these reverse KLs on unselected tokens; all_tokens: of the first round."""
    lines: list[dict[str, Any]] = []
    for n, value in enumerate(values):
        stages = {
            "score": {"reverse_kl": all_tokens if n == 0 else 9.0},
            "select": {"unselected_reverse_kl": value},
            "train": {"drift_unselected": n / 100},
        }
        lines += [{"round": n, "stage": name} | numbers for name, numbers in stages.items()]
    return by_round(lines)


@pytest.mark.parametrize(
    "values",
    [
        (0.2,),
        (0.2, 0.1, 0.12),
        (0.001, 0.29),  # much more than before, but less than all tokens had
        (0.4, 0.5),  # more than all tokens had, but so it was before
        (0.3, 0.2, 0.3),  # exactly 1.5 times
    ],
)
def test_small_changes_are_none(values: tuple[float, ...]) -> None:
    assert rounds_that_lost_ground(rounds(*values)) == []


def test_models_that_are_all_but_equal_have_no_ground_to_lose() -> None:
    assert rounds_that_lost_ground(rounds(2e-5, 1e-6, 4e-5, all_tokens=1e-5)) == []
    assert rounds_that_lost_ground(rounds(2e-5, 1e-6, 0.02, all_tokens=1e-5)) == [2]


def test_growth_is_counted_from_the_best_round_before() -> None:
    assert lost_ground(rounds(0.5, 0.1, 0.31, 0.2), 2) == (1, 0.1, 0.31)
    assert rounds_that_lost_ground(rounds(0.5, 0.1, 0.31, 0.2, 0.4)) == [2, 4]


@given(st.lists(st.sampled_from([0.001, 0.1, 0.15, 0.2, 0.3, 0.31, 0.5]), max_size=8))
def test_all_rounds_at_once_are_what_each_is_by_its_definition(values: list[float]) -> None:
    def has_lost(number: int) -> bool:
        before = values[:number]
        return bool(before) and values[number] > max(0.01, 1.5 * max(0.2, min(before)))

    expected = [number for number in range(len(values)) if has_lost(number)]
    assert rounds_that_lost_ground(rounds(*values)) == expected


def test_a_round_that_is_not_selected_yet_says_nothing() -> None:
    assert lost_ground({**rounds(0.1, 0.1), 2: RoundMetrics()}, 2) is None


def test_the_warning_names_the_numbers_and_the_ways_out(config: MakeConfig) -> None:
    settings = config("fast", train={"lr": 1e-3}, select={"keep": 0.1})
    text = warning(rounds(0.5, 0.1, 0.4), 2, settings)
    assert text is not None
    for part in ("0.1000 (round 1) to 0.4000", "0.0100 nats", "0.001", "0.1", "--from fast@1"):
        assert part in text
    assert warning(rounds(0.5, 0.1), 1, settings) is None
    counted = warning(rounds(0.5, 0.4, 0.9), 2, config(select={"keep": None, "count": 3}))
    assert counted is not None
    assert "raise select.count = 3;" in counted
    own = warning(rounds(0.5, 0.4, 0.9), 2, config(select={"rule": "horizon"}))
    assert own is not None
    assert "raise the share of the tokens, by another rule;" in own


def test_a_run_that_forgets_what_it_is_not_trained_on_says_so(
    config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(
        rounds=3, select={"rule": "q3", "keep": 0.1}, train={"lr": 2e-3, "warmup_steps": 1}
    )
    session = open_session(settings, Reporter())
    play(session)
    print_run(session.run)
    output = capsys.readouterr()
    assert "warning   the student loses what it is not trained on" in output.err
    assert "lower train.lr" in output.out
    numbers = by_round(session.run.metrics())
    assert rounds_that_lost_ground(numbers)
    drift = [r.train.drift_unselected or 0 for r in numbers.values() if r.train]
    assert max(drift) > 0.02


def test_a_run_that_keeps_what_it_has_raises_no_alarm(config: MakeConfig) -> None:
    session = open_session(config(rounds=3))
    play(session)
    assert rounds_that_lost_ground(by_round(session.run.metrics())) == []


def asked(*values: tuple[float, float | None], other: int | None = None) -> dict[int, RoundMetrics]:
    """Return evaluations of (accuracy, held-out reverse KL); other: one with other settings."""
    return by_round(
        {
            "round": n,
            "stage": "evaluate",
            "asked": "another" if n == other else "same",
            "accuracy": accuracy,
            "low": accuracy - 0.05,
            "high": accuracy + 0.05,
            "reverse_kl": kl,
        }
        for n, (accuracy, kl) in enumerate(values)
    )


def test_a_student_that_is_worse_on_held_out_problems_is_told_with_the_better_one(
    config: MakeConfig,
) -> None:
    text = held_out_warning(asked((0.0, 7.4), (0.0, 2.52), (0.0, 3.15)), 2, config("ruined"))
    assert text is not None
    for part in ("of round 2 is", "that of round 1", "3.1500 against 2.5200", "ruined@1"):
        assert part in text
    fewer = held_out_warning(asked((0.5, None), (0.3, None)), 1, config("ruined"))
    assert fewer is not None
    assert "the one before any training: accuracy 30.0% against 50.0%" in fewer
    assert "ruined@0" not in fewer, "nothing can be exported or gone on from there"


@pytest.mark.parametrize(
    "rounds",
    [
        asked((0.0, 3.15)),
        asked((0.0, 2.52), (0.0, 2.7)),
        asked((0.0, 0.001), (0.0, 0.005)),
        asked((0.5, None), (0.41, None)),
        asked((0.5, 1.0), (0.1, 9.0), other=0),
    ],
)
def test_chance_and_other_questions_raise_no_alarm(
    rounds: dict[int, RoundMetrics], config: MakeConfig
) -> None:
    assert held_out_warning(rounds, max(rounds), config()) is None
