"""Works are values: they print, pickle, and know their key without a model."""

import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.rounds.evaluation import evaluate_works
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.rounds.scores import score_works, teacher_works, tokens_works
from tip.pipeline.rounds.training import train_work
from tip.pipeline.session import Session, look_at, open_session
from tip.pipeline.works.selection import SelectWork
from tip.pipeline.works.training import RestoreWork, TrainWork
from tip.pipeline.works.work import Work
from tip.storage.store.store import Artifact

from ..conftest import MakeConfig


@pytest.fixture
def ran(config: MakeConfig, asked: dict[str, object]) -> Session:
    session = open_session(config(rounds=1, evaluate=asked))
    play(session)
    return session


def artifacts(session: Session, kind: str) -> list[Artifact]:
    pointers = session.run.round(0)
    assert pointers is not None
    found = [session.store.find(kind, key) for key in pointers.of(kind)]
    return [a for a in found if a is not None]


def training(session: Session) -> TrainWork:
    tables = [artifacts(session, kind) for kind in ("rollouts", "teacher", "selection")]
    return train_work(session, 0, session.student(0), tables[0], tables[1], tables[2][0])


def every_work(session: Session) -> dict[str, Work]:
    """Return a work of each kind, all of which the store holds."""
    student, rollouts = session.student(0), artifacts(session, "rollouts")
    tokens, teacher = artifacts(session, "tokens"), artifacts(session, "teacher")
    inputs, config = session.inputs, session.config
    selected = SelectWork(
        tuple(rollouts),
        tuple(tokens),
        config.select,
        config.seed,
        inputs.student_card.head_rows,
        config.threads,
    )
    return {
        "rollout": rollout_works(session, student, inputs.round_shards(0))[0],
        "score": score_works(session, student, rollouts)[0],
        "teacher": teacher_works(session, rollouts)[0],
        "tokens": tokens_works(session, student, rollouts, teacher)[0],
        "select": selected,
        "train": training(session),
        "evaluate": evaluate_works(session, student)[0],
    }


def test_works_of_every_stage_print_pickle_are_frozen_and_hold_no_model(ran: Session) -> None:
    works = every_work(look_at(ran.config)) | {"restore": RestoreWork(training(ran))}
    for name, work in works.items():
        data = pickle.dumps(work)
        assert pickle.loads(data) == work, name
        assert b"torch" not in data.replace(b"torch.float32", b""), name
        assert len(data) < 200_000, name
        assert type(work).__name__ in repr(work)
        with pytest.raises(FrozenInstanceError):
            work.size = 1  # type: ignore[misc]


def test_what_a_run_made_is_found_by_works_made_anew(ran: Session) -> None:
    for name, work in every_work(look_at(ran.config)).items():
        found = work.found(ran.store)
        if name == "tokens":  # of a replay or of separate mode: this run has the exact table
            assert found is None
            continue
        assert found is not None, name
        assert not any(made.fresh for made in found)


def test_a_table_that_alone_is_missing_costs_a_teachers_pass_and_says_so(ran: Session) -> None:
    (work, *_) = score_works(ran, ran.student(0), artifacts(ran, "rollouts"))
    teacher, tokens = (made.artifact for made in work.found(ran.store) or ())
    ran.store.remove("tokens", tokens.key)
    assert work.found(ran.store) is None
    ((again, table),) = ran.executor.map([replace(work, made_by="me")], "score")
    assert (again.artifact, again.fresh) == (teacher, False)
    assert (table.fresh, table.artifact.content) == (True, tokens.content)
    assert table.artifact.facts["teacher_tokens"] == teacher.facts["teacher_tokens"]
    assert table.artifact.facts["made_by"] == "me"


def test_signals_that_alone_are_missing_are_made_by_the_teacher_alone(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay's student is another: of a pass over both models one half would be thrown away."""
    loaded: list[str] = []
    real = ran.executor.holder.model  # type: ignore[attr-defined]

    def model(weights: Any) -> Any:
        loaded.append(weights.role)
        return real(weights)

    (work, *_) = teacher_works(ran, artifacts(ran, "rollouts"))
    (found,) = work.found(ran.store) or ()
    ran.store.remove("teacher", found.artifact.key)
    monkeypatch.setattr(ran.executor.holder, "model", model)  # type: ignore[attr-defined]
    ((made,),) = ran.executor.map([work], "score")
    assert (made.artifact.key, made.artifact.rows) == (found.artifact.key, found.artifact.rows)
    assert loaded == ["teacher"]


def test_a_work_says_how_much_there_is_to_do_in_the_unit_of_its_bar(ran: Session) -> None:
    works = every_work(ran)
    units = {name: (work.size, work.unit) for name, work in works.items()}
    rollouts = artifacts(ran, "rollouts")[0].facts
    assert units["rollout"] == (32, "rollouts")
    assert units["score"] == units["teacher"] == units["tokens"] == (rollouts["tokens"], "tokens")
    assert units["train"] == (4, "steps")
    assert units["evaluate"] == (40, "answers")


def test_a_state_that_is_there_is_not_made_again(ran: Session, tmp_path: Path) -> None:
    work = training(ran)
    assert RestoreWork(work).found(ran.store) == ()
    assert RestoreWork(replace(work, state=tmp_path / "none")).found(ran.store) is None
