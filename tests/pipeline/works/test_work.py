"""Works are values: they print, pickle, and know their key without a model."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from tip.pipeline.rounds.evaluation import evaluate_works
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.rounds.scores import score_works, teacher_works, tokens_works
from tip.pipeline.session import Session, look_at
from tip.pipeline.works.selection import SelectWork
from tip.pipeline.works.training import RestoreWork
from tip.pipeline.works.work import Work, cut
from tip.stages.holder import Served
from tip.stages.models.settings import ServerSettings

from ..conftest import MakeConfig, artifacts
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
    assert units["rollout"] == (32 * 64, "tokens")  # at most
    assert units["score"] == units["teacher"] == units["tokens"] == (rollouts["tokens"], "tokens")
    assert units["train"] == (4, "steps")
    assert units["evaluate"] == (40 * 64, "tokens")


def test_what_a_run_keeps_to_itself_is_not_sent(ran: Session) -> None:
    works = every_work(ran) | {"restore": RestoreWork(training(ran))}
    spread = {name: work.spread(ran.store, 4) for name, work in works.items()}
    sent = {name for name, work in works.items() if spread[name] == (work,)}
    assert sent == {"rollout", "score", "teacher", "tokens", "evaluate"}
    assert {name for name, parts in spread.items() if not parts} == {"select", "train", "restore"}


def test_shards_of_one_vllm_batch_are_cut_so_that_each_part_lacks_about_as_many(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    vllm = {"engine": "vllm", "batch_size": 8}
    session = look_at(config(rollout=vllm | {"prompts": 160}, evaluate=asked | vllm))
    student = session.student(0)
    (work,) = rollout_works(session, student, session.inputs.round_shards(0))
    parts = work.spread(session.store, 2)
    assert [len(part.shards) for part in parts] == [3, 2]
    keys = [part.inputs(n) for part in parts for n in range(len(part.shards))]
    assert keys == [work.inputs(n) for n in range(5)]
    (answers,) = evaluate_works(session, student)
    halves = answers.spread(session.store, 4)
    assert [shard for part in halves for shard in part.shards] == list(answers.shards)
    assert len(halves) == 2  # shards


def test_a_server_is_asked_by_the_run_itself(ran: Session) -> None:
    (work, *_) = teacher_works(ran, artifacts(ran, "rollouts"))
    served = Served(work.teacher.card, ServerSettings(url="http://a"), 1, 1, 1.0)
    assert replace(work, reader=served).spread(ran.store, 4) == ()


@pytest.mark.parametrize(
    ("there", "most", "parts"),
    [
        ([0, 0, 0, 0, 0], 2, 2),
        ([1, 1, 1, 0, 0, 0], 2, 2),
        ([0, 1, 1, 1, 1, 0], 2, 2),
        ([0, 0], 9, 2),
        ([1, 1], 3, 1),
        ([0, 0, 0], 1, 1),
    ],
)
def test_parts_are_in_order_and_lack_about_as_many_each(
    there: list[int], most: int, parts: int
) -> None:
    shards = list(range(len(there)))
    groups = cut(shards, [bool(found) for found in there], most)
    assert [shard for group in groups for shard in group] == shards
    lacking = [sum(not there[shard] for shard in group) for group in groups]
    assert max(lacking) - min(lacking) <= 1
    assert len(groups) == parts
