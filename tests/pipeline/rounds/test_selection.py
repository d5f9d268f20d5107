"""The select stage of a round: made once, recorded with what it came to."""

from dataclasses import replace

from tip.pipeline.metrics import by_round
from tip.pipeline.rounds.selection import ensure_selection
from tip.storage.facts import SelectionFacts

from ..conftest import Listening, MakeConfig, artifacts, played


def test_a_selection_is_made_once_and_recorded_with_its_facts(config: MakeConfig) -> None:
    session, reporter = played(config(rounds=1)), Listening()
    (before,) = artifacts(session, "selection")
    shards = artifacts(session, "rollouts"), artifacts(session, "tokens")
    after = ensure_selection(replace(session, reporter=reporter), 0, *shards)
    assert after == before
    facts, line = SelectionFacts.of(after), by_round(session.run.metrics())[0].select
    assert line is not None
    for name in ("rule", "keep", "trainable", "kept", "kept_reverse_kl", "types", "cuts"):
        assert getattr(line, name) == getattr(facts, name), name
    assert f"soft_or: {facts.kept:,} of {facts.trainable:,} tokens" in reporter.said[0]
    assert ", found" in reporter.said[0]
