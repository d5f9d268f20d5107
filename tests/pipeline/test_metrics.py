"""Metrics read back: what a run paid for over all its starts, and its last results."""

from typing import Any

import pytest
from tip.pipeline.metrics import Spent, by_round, costs
from tip.storage.errors import StoreError


def line(stage: str = "score", **numbers: object) -> dict[str, Any]:
    return {"round": 0, "stage": stage, "seconds": 1.0, **numbers}


def score(*lines: dict[str, Any]) -> Any:
    return by_round(lines)[0].score


def test_seconds_add_up_over_starts_and_results_are_the_last() -> None:
    numbers = score(line(reverse_kl=2.0), line(reverse_kl=1.0))
    assert (numbers.seconds, numbers.reverse_kl) == (2.0, 1.0)


def test_what_seconds_went_into_adds_up_and_is_unknown_of_older_versions() -> None:
    assert score(line()).spent is None
    told = {"computing": 0.5, "loading": 0.5}
    assert score(line(), line(spent=told), line(spent=told)).spent == Spent(
        computing=1.0, loading=1.0
    )


def test_what_a_killed_start_made_is_paid_and_not_reused() -> None:
    # 100 tokens: another run read 30, this run's killed start 50, this start 20
    found = line(teacher_tokens_scored=20, teacher_tokens_reused=80, teacher_tokens_own=70)
    numbers = score(found)
    assert (numbers.teacher_tokens_scored, numbers.teacher_tokens_reused) == (70, 30)


def test_evaluations_of_other_problems_than_the_last_rounds_are_left_out() -> None:
    lines = [
        line("evaluate", asked="all", accuracy=0.4),
        line("evaluate", asked="all", accuracy=0.8) | {"round": 2},
        line("evaluate", asked="ten", accuracy=0.1),
        line("evaluate", asked="ten", accuracy=0.1) | {"round": 1},
    ]
    found = {n: r.evaluate.accuracy for n, r in by_round(lines).items() if r.evaluate}
    assert found == {0: 0.4, 2: 0.8}


def test_rounds_come_in_order() -> None:
    lines = [line() | {"round": 2}, line() | {"round": 0}]
    assert list(by_round(lines)) == [0, 2]


def test_a_line_of_another_version_is_read_for_what_is_known_of_it() -> None:
    numbers = score(line(reverse_kl=1.0, of_tomorrow=[1]))
    assert (numbers.reverse_kl, numbers.tokens, numbers.entries) == (1.0, 0, None)


def test_a_question_to_the_teacher_counts_its_seconds_and_is_no_stage_of_a_round() -> None:
    of_round = by_round([line(), line("evaluate teacher", accuracy=1.0)])[0]
    assert of_round.evaluate is None
    assert list(of_round.every()) == ["score", "evaluate teacher"]
    assert of_round.seconds == 2.0


def test_costs_are_summed_over_rounds_and_bytes_weighted_by_tokens() -> None:
    lines = [
        line(tokens=10, bytes_per_token=40.0, teacher_tokens_scored=3, teacher_tokens_reused=5),
        line(tokens=30, bytes_per_token=80.0, teacher_tokens_scored=4) | {"round": 1},
        line("train", trained_tokens=7),
    ]
    spent = costs(by_round(lines))
    assert (spent.trained, spent.scored, spent.reused, spent.seconds) == (7, 7, 5, 3.0)
    assert spent.bytes_per_token == pytest.approx(70)
    assert costs({}).bytes_per_token == 0


@pytest.mark.parametrize("line", [{}, {"stage": "evaluate", "asked": "a"}, {"round": 0}])
def test_a_line_that_lacks_what_every_line_says_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="has an unusable"):
        by_round([line])


def test_a_stage_of_an_unknown_name_is_kept_beside_the_others() -> None:
    lines = [line("other"), line("every"), line("score", tokens=3)]
    assert set(by_round(lines)[0].every()) == {"other", "every", "score"}
