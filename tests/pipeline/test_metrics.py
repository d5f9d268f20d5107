"""Metrics read back: what a run paid for over all its starts, and its last results."""

from tip.pipeline.metrics import by_round


def line(stage: str = "score", **numbers: object) -> dict[str, object]:
    return {"round": 0, "stage": stage, "seconds": 1.0, **numbers}


def test_seconds_add_up_over_starts_and_results_are_the_last() -> None:
    numbers = by_round([line(reverse_kl=2.0), line(reverse_kl=1.0)])[0]["score"]
    assert (numbers["seconds"], numbers["reverse_kl"]) == (2.0, 1.0)


def test_what_a_killed_start_made_is_paid_and_not_reused() -> None:
    # 100 tokens: another run read 30, this run's killed start 50, this start 20
    found = line(teacher_tokens_scored=20, teacher_tokens_reused=80, teacher_tokens_own=70)
    numbers = by_round([found])[0]["score"]
    assert (numbers["teacher_tokens_scored"], numbers["teacher_tokens_reused"]) == (70, 30)


def test_evaluations_of_other_problems_than_the_last_rounds_are_left_out() -> None:
    lines = [
        line("evaluate", asked="all", accuracy=0.4),
        line("evaluate", asked="all", accuracy=0.8) | {"round": 2},
        line("evaluate", asked="ten", accuracy=0.1),
        line("evaluate", asked="ten", accuracy=0.1) | {"round": 1},
    ]
    numbers = by_round(lines)
    assert {n: stages["evaluate"]["accuracy"] for n, stages in numbers.items()} == {0: 0.4, 2: 0.8}


def test_rounds_come_in_order() -> None:
    lines = [line() | {"round": 2}, line() | {"round": 0}]
    assert list(by_round(lines)) == [0, 2]
