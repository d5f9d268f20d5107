"""Metrics read back: costs add up over starts, results are the last ones."""

from tip.pipeline.status import by_round


def line(stage: str = "score", **numbers: float) -> dict[str, object]:
    return {"round": 0, "stage": stage, "seconds": 1.0, **numbers}


def test_costs_add_up_over_starts_and_results_are_the_last() -> None:
    first = line(teacher_tokens_scored=60, teacher_tokens_reused=40, reverse_kl=2.0)
    again = line(teacher_tokens_scored=0, teacher_tokens_reused=100, reverse_kl=1.0)
    numbers = by_round([first, again])[0]["score"]
    assert numbers["seconds"] == 2.0
    assert numbers["reverse_kl"] == 1.0
    assert (numbers["teacher_tokens_scored"], numbers["teacher_tokens_reused"]) == (60, 40)


def test_rounds_come_in_order() -> None:
    lines = [line() | {"round": 2}, line() | {"round": 0}]
    assert list(by_round(lines)) == [0, 2]
