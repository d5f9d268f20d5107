"""What is said before everything else."""

from types import SimpleNamespace
from typing import Any

import pytest
from tip.pipeline.metrics import by_round
from tip.pipeline.report.alarms import alarms_of


def said(*lines: dict[str, Any], rounds: int = 2, trained: int = 2) -> list[tuple[str, str]]:
    config = SimpleNamespace(
        rounds=rounds,
        name="run",
        select=SimpleNamespace(rule="q3", keep=0.1, count=None),
        train=SimpleNamespace(lr=1e-3),
    )
    source: Any = SimpleNamespace(metrics=by_round(lines), config=config, trained=trained)
    return [(alarm.level, alarm.text) for alarm in alarms_of(source)]


def asked(number: int, accuracy: float, half: float, kl: float | None = None) -> dict[str, Any]:
    low, high = accuracy - half, accuracy + half
    more = {} if kl is None else {"reverse_kl": kl}
    line = {"stage": "evaluate", "round": number, "asked": "a", "accuracy": accuracy}
    return line | {"low": low, "high": high} | more


def test_a_run_that_went_well_raises_none() -> None:
    assert said(asked(0, 0.2, 0.05, 1.0), asked(1, 0.5, 0.05, 0.5)) == []


@pytest.mark.parametrize(("half", "level"), [(0.02, "alarm"), (0.2, "note")])
def test_an_accuracy_that_fell_is_an_alarm_where_it_is_no_chance(half: float, level: str) -> None:
    (found,) = said(asked(0, 0.5, half), asked(1, 0.4, half))
    assert found[0] == level
    assert "fell from 50.0% after 0 rounds to 40.0% after 1" in found[1]


def test_a_held_out_divergence_is_held_against_the_best_before() -> None:
    better = [asked(0, 0.5, 0.1, 1.0), asked(1, 0.5, 0.1, 0.4)]
    assert said(*better, asked(2, 0.5, 0.1, 0.41)) == []
    ((level, text),) = said(*better, asked(2, 0.5, 0.1, 0.5))
    assert level == "alarm"
    assert "reverse kl grew worse: 0.4000 nats after 1 rounds, 0.5000 after 2" in text


def test_lost_ground_comes_first_with_what_to_do() -> None:
    lines = [
        {"stage": "select", "round": n, "unselected_reverse_kl": kl}
        for n, kl in enumerate([0.1, 0.05, 0.4])
    ]
    found = said(*lines, rounds=9)
    assert [level for level, _ in found] == ["alarm", "note"]
    assert "Lost ground in round 2" in found[0][1]
    assert "lower train.lr = 0.001 or raise select.keep = 0.1" in found[0][1]
    assert found[1][1] == "2 of 9 rounds are trained so far."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"stage": "train", "skipped": 3}, "Training steps were skipped in 1 rounds"),
        ({"stage": "rollout", "truncated": 0.8}, "The length limit ended 80% of the rollouts"),
        ({"stage": "score", "student_mass": 0.5}, "The support holds only 50%"),
        ({"stage": "score", "off_policy_kl": 0.3}, "another student made the rollouts"),
    ],
)
def test_what_must_be_known_to_read_the_rest_is_said(line: dict[str, Any], words: str) -> None:
    ((_, text),) = said({"round": 1} | line)
    assert words in text


def test_what_is_as_usual_is_not_said() -> None:
    usual = {"round": 0, "stage": "rollout", "truncated": 0.3}
    scored = {"round": 0, "stage": "score", "student_mass": 0.99, "off_policy_kl": 1e-6}
    assert said(usual, scored) == []
