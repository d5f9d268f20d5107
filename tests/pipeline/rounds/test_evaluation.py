"""An evaluation is made once for all runs; a kill costs a batch; older versions' are found."""

from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.rounds import evaluation as module
from tip.pipeline.rounds.evaluation import evaluate_works
from tip.pipeline.rounds.single import evaluate_round, evaluate_teacher
from tip.pipeline.session import Session, open_session
from tip.storage.columns import EVALUATION
from tip.storage.tables import read_table

from ..conftest import MakeConfig, numbers, played
from ..killing import Killed, KillingReporter


def shards(session: Session) -> int:
    return len(list(session.store.list("evaluation")))


def test_a_kill_costs_the_batch_that_was_under_way(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    small = asked | {"batch_size": 32}
    whole = evaluate_round(open_session(config(evaluate=small, store=str(tmp_path / "w"))), 0)
    session = open_session(config(evaluate=small), KillingReporter("evaluate", 32 * 64))
    with pytest.raises(Killed):
        evaluate_round(session, 0)
    assert shards(session) == 1  # 32 of 40 problems
    again = evaluate_round(open_session(config(evaluate=small)), 0)
    assert shards(session) == 2
    assert (again.accuracy, again.asked) == (whole.accuracy, whole.asked)


def test_an_evaluation_that_an_older_version_stored_whole_is_found(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_session(config(evaluate=asked))
    expected = evaluate_round(made, 0)
    (work,) = evaluate_works(made, made.student(0))
    parts = [m.artifact for m in work.found(made.store) or ()]
    table = read_table([made.store.path(a, "evaluation") for a in parts])
    older = open_session(config(evaluate=asked, store=str(tmp_path / "older")))
    inputs = work.inputs(tuple(p for shard in work.shards for p in shard))

    def write(draft: Any) -> dict[str, Any]:
        draft.table("evaluation", table, EVALUATION)
        return {"problems": 40}

    older.store.ensure("evaluation", inputs, write)
    monkeypatch.setattr(module, "evaluate_works", lambda *_: pytest.fail("asked again"))
    found = evaluate_round(older, 0)
    assert (found.accuracy, found.asked) == (expected.accuracy, expected.asked)
    assert shards(older) == 1


def test_the_teacher_is_asked_the_same_and_recorded_apart(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    session = open_session(config(evaluate=asked))
    teacher, student = evaluate_teacher(session), evaluate_round(session, 0)
    assert teacher.accuracy > student.accuracy
    assert (teacher.stage, student.stage) == ("evaluate teacher", "evaluate")
    assert teacher.asked == student.asked


def test_an_evaluation_is_made_once_for_all_runs(config: MakeConfig, problems: Path) -> None:
    asked = {
        "source": str(problems / "held_out.jsonl"),
        "template": "raw",
        "temperature": 0,
        "max_tokens": 64,
        "verifier": "exact",
        "reverse_kl": True,
    }
    first = played(config(evaluate=asked))
    other = played(config("other", evaluate=asked, select={"rule": "random"}))
    accuracies = numbers(first, "evaluate", "accuracy")
    assert len(accuracies) == 2
    assert accuracies[0] == numbers(other, "evaluate", "accuracy")[0]
    shards = 2  # of 40 problems
    assert len(list(first.store.list("evaluation"))) == 3 * shards
    for name in ("reverse_kl", "forward_kl", "jsd"):
        before, after = numbers(first, "evaluate", name)
        assert after < before, name
    before, after = numbers(first, "evaluate", "agreement")
    assert 0.5 < before < after < 1


def test_without_the_students_top_ids_there_is_no_agreement(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    settings = config(evaluate=asked | {"reverse_kl": True}, rollout={"student_top_max": 0})
    found = evaluate_round(open_session(settings), 0)
    assert found.agreement is None
    assert found.reverse_kl is not None


def test_of_ids_that_were_drawn_there_is_no_agreement(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    drawn = {"score": {"support": "sampled"}, "train": {"loss": "forward_kl"}}
    top, sampled = (
        evaluate_round(open_session(config(evaluate=asked | {"reverse_kl": True}, **more)), 0)
        for more in ({}, drawn)
    )
    assert sampled.agreement is None
    assert top.agreement is not None
    for name in ("reverse_kl", "forward_kl", "jsd"):  # over the whole vocabulary in both
        assert getattr(sampled, name) == pytest.approx(getattr(top, name), abs=1e-6)
