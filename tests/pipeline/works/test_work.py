"""Works are values: they print, pickle, and know their key without a model."""

import pickle
from dataclasses import FrozenInstanceError

import pytest
from tip.pipeline.rounds.evaluation import evaluate_works
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.rounds.scores import score_works, teacher_works, tokens_works
from tip.pipeline.session import Session, look_at
from tip.pipeline.works.selection import SelectWork
from tip.pipeline.works.training import RestoreWork
from tip.pipeline.works.work import Work

from ..conftest import artifacts
from .conftest import training


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


def test_a_work_says_how_much_there_is_to_do_in_the_unit_of_its_bar(ran: Session) -> None:
    works = every_work(ran)
    units = {name: (work.size, work.unit) for name, work in works.items()}
    rollouts = artifacts(ran, "rollouts")[0].facts
    assert units["rollout"] == (32, "rollouts")
    assert units["score"] == units["teacher"] == units["tokens"] == (rollouts["tokens"], "tokens")
    assert units["train"] == (4, "steps")
    assert units["evaluate"] == (40, "answers")
