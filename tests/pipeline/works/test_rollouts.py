"""Shards of rollouts: what is there is kept, what is missing is made, and both are counted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.session import Session
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request, Responses
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
    assert sum(ticks) == both.size == 64 * 64  # tokens at most


def test_where_a_batch_spans_shards_they_are_generated_together_and_kept_apart(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, ticks, asked = copied(ran, config(rounds=1)), [], []
    honest = LocalEngine.generate

    def noted(engine: LocalEngine, requests: Sequence[Request], *rest: Any) -> Responses:
        asked.append(len(requests))
        return honest(engine, requests, *rest)

    monkeypatch.setattr(LocalEngine, "generate", noted)
    before = artifacts(session, "rollouts")
    tables = [read_table([session.store.path(a, "rollouts")]) for a in before]
    for artifact in before:
        session.store.remove("rollouts", artifact.key)
    (work, _) = rollout_works(session, session.student(0), session.inputs.round_shards(0))
    both = replace(
        work,
        shards=tuple(session.inputs.round_shards(0)),
        generator=replace(work.generator, spans=True),
    )
    made = both.ensure(session.executor.holder, session.store, ticks.append)  # type: ignore[attr-defined]
    assert asked == [64]
    assert sum(ticks) == both.size
    for each, old, table in zip(made, before, tables, strict=True):
        found = read_table([session.store.path(each.artifact, "rollouts")])
        assert each.fresh
        assert each.artifact.key == old.key  # only rounding depends on the batch
        assert RolloutFacts.of(each.artifact).tokens == RolloutFacts.of(old).tokens
        for column in ("rollout", "response_ids", "top_ids"):
            assert found[column].to_pylist() == table[column].to_pylist()


def test_facts_of_a_shard_are_counted_from_its_table(ran: Session) -> None:
    artifact = artifacts(ran, "rollouts")[0]
    table, facts = read_table([ran.store.path(artifact, "rollouts")]), RolloutFacts.of(artifact)
    lengths = [len(ids) for ids in table["response_ids"].to_pylist()]
    assert (facts.rollouts, facts.tokens) == (len(lengths), sum(lengths))
    ended = table["stop_reason"].to_pylist()
    assert facts.truncated == ended.count("length")
    assert facts.made_by == ran.run.id
