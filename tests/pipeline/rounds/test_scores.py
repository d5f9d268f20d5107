"""The score stage of a round: what it records, and what it refuses of an engine's rollouts."""

from dataclasses import replace
from typing import Any

import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.scores import _refuse_gross_sampling, _scores
from tip.pipeline.session import Session, open_session
from tip.pipeline.works.work import Made
from tip.stages import holder as module
from tip.storage.errors import DisagreementError
from tip.storage.facts import EngineGap
from tip.storage.store.artifacts import Artifact

from ..conftest import MakeConfig, artifacts, copied, numbers, played


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared(rounds=1))


def by_vllm(artifact: Artifact, **facts: Any) -> Artifact:
    return replace(
        artifact, inputs=artifact.inputs | {"engine": "vllm"}, facts=artifact.facts | facts
    )


def test_an_engine_that_could_not_be_compared_is_judged_by_the_first_scored_shard(
    ran: Session,
) -> None:
    (rollouts, *_), (tokens, *_) = artifacts(ran, "rollouts"), artifacts(ran, "tokens")
    far = replace(tokens, facts=tokens.facts | {"sampling_gap_rms": 0.5})
    student = ran.student(0)
    _refuse_gross_sampling(ran, student, [by_vllm(rollouts)], [tokens])
    with pytest.raises(DisagreementError, match=r"0\.5 nats.*computes another model"):
        _refuse_gross_sampling(ran, student, [by_vllm(rollouts)], [far])


def test_an_engine_that_was_compared_and_another_student_are_left_alone(ran: Session) -> None:
    (rollouts, *_), (tokens, *_) = artifacts(ran, "rollouts"), artifacts(ran, "tokens")
    far = replace(tokens, facts=tokens.facts | {"sampling_gap_rms": 0.5})
    gap = EngineGap(mean=1e-6, rms=1e-6, tokens=9)
    compared = by_vllm(rollouts, engine_gap=gap.dump())
    other = replace(ran.student(0), card=replace(ran.student(0).card, fingerprint="f" * 32))
    _refuse_gross_sampling(ran, ran.student(0), [compared], [far])
    _refuse_gross_sampling(ran, other, [by_vllm(rollouts)], [far])
    _refuse_gross_sampling(ran, ran.student(0), [rollouts], [far])  # of the embedded engine


def test_a_pass_for_a_token_table_alone_is_on_the_ledger(ran: Session) -> None:
    teacher, tokens = artifacts(ran, "teacher"), artifacts(ran, "tokens")
    paid = numbers(ran, "score", "teacher_tokens_scored")[0]
    read = teacher[0].facts["teacher_tokens"]
    again = replace(tokens[0], facts=tokens[0].facts | {"teacher_tokens": read, "made_by": "me"})
    signals, others = [Made(a, fresh=False) for a in teacher], [Made(a, False) for a in tokens[1:]]
    twice = _scores(signals, [Made(again, fresh=True), *others])
    assert (twice.scored, twice.reused) == (read, paid - read)
    assert (twice.read_for("me"), twice.read_for(ran.run.id)) == (read, paid)
    # what that pass cost is nothing that a later run is spared
    later = _scores(signals, [Made(again, fresh=False), *others])
    assert (later.scored, later.reused) == (0, paid)


def test_older_tables_name_the_pass_that_gave_both_and_it_counts_once(ran: Session) -> None:
    teacher, tokens = artifacts(ran, "teacher"), artifacts(ran, "tokens")
    older = [
        replace(table, facts=table.facts | {"teacher_tokens": signals.facts["teacher_tokens"]})
        for signals, table in zip(teacher, tokens, strict=True)
    ]
    found = _scores([Made(a, False) for a in teacher], [Made(a, False) for a in older])
    paid = numbers(ran, "score", "teacher_tokens_scored")[0]
    assert (found.scored, found.reused, found.read_for(ran.run.id)) == (0, paid, paid)


def test_a_lost_table_is_made_again_and_its_teachers_pass_counted(
    ran: Session, config: MakeConfig
) -> None:
    again = copied(ran, config(rounds=1))
    (lost, *_) = artifacts(again, "tokens")
    again.store.remove("tokens", lost.key)
    play(again)
    teacher = artifacts(again, "teacher")[0].facts["teacher_tokens"]
    assert numbers(again, "score", "teacher_tokens_scored")[-1] == teacher
    own = numbers(again, "score", "teacher_tokens_own")
    assert own[-1] == own[0] + teacher


def test_no_two_models_are_in_memory(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = module.load_model, []
    session = open_session(config(rounds=2, score={"mode": "separate"}))
    holder = session.executor.holder  # type: ignore[attr-defined]

    def load(card: Any, *rest: Any, **more: Any) -> Any:
        seen.append(card.folder.name)
        assert not holder._models, "another model is in memory"
        return real(card, *rest, **more)

    monkeypatch.setattr(module, "load_model", load)
    play(session)
    # the teacher is met; round by round: student rolls out (in the second it is there), teacher
    # scores, student scores and is trained, its export is read back
    assert len(seen) == 8


def test_a_run_trains_on_ids_that_were_drawn_from_the_teacher(config: MakeConfig) -> None:
    small: dict[str, Any] = {"rounds": 1, "rollout": {"prompts": 64}, "select": {"keep": 1.0}}
    train = {"train": {"loss": "forward_kl", "lr": 3e-4, "rollouts_per_step": 4}}
    drawn = played(config("drawn", score={"support": "sampled", "draws": 8}, **small, **train))
    plain = played(config("plain", **small, **train))
    assert numbers(drawn, "score", "entries")[0] < 8
    (moved,), (expected,) = artifacts(drawn, "checkpoint"), artifacts(plain, "checkpoint")
    assert moved.key != expected.key
    assert moved.facts["staleness"] == pytest.approx(expected.facts["staleness"], rel=0.5)
    assert moved.facts["staleness"] > 0
