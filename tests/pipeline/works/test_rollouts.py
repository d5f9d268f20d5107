"""Shards of rollouts: what is there is kept, what is missing is made, and both are counted."""

from dataclasses import replace

from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.session import Session
from tip.storage.facts import RolloutFacts
from tip.storage.tables import read_table

from ..conftest import MakeConfig, artifacts, copied


def test_of_several_shards_only_the_missing_one_is_generated(
    ran: Session, config: MakeConfig
) -> None:
    session, ticks = copied(ran, config(rounds=1)), []
    first, second = artifacts(session, "rollouts")
    session.store.remove("rollouts", second.key)
    (work, _) = rollout_works(session, session.student(0), session.inputs.round_shards(0))
    both = replace(work, shards=tuple(session.inputs.round_shards(0)), made_by="me")
    assert both.found(session.store) is None
    made = both.ensure(session.executor.holder, session.store, ticks.append)  # type: ignore[attr-defined]
    assert [each.fresh for each in made] == [False, True]
    assert made[0].artifact == first
    assert (made[1].artifact.key, made[1].artifact.content) == (second.key, second.content)
    assert sum(ticks) == both.size == 64


def test_facts_of_a_shard_are_counted_from_its_table(ran: Session) -> None:
    artifact = artifacts(ran, "rollouts")[0]
    table, facts = read_table([ran.store.path(artifact, "rollouts")]), RolloutFacts.of(artifact)
    lengths = [len(ids) for ids in table["response_ids"].to_pylist()]
    assert (facts.rollouts, facts.tokens) == (len(lengths), sum(lengths))
    ended = table["stop_reason"].to_pylist()
    assert facts.truncated == ended.count("length")
    assert facts.made_by == ran.run.id
