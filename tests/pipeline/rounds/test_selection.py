"""The select stage of a round: made once, recorded with what it came to."""

from dataclasses import replace
from typing import Any

import pytest
from tip.pipeline.metrics import by_round
from tip.pipeline.rounds import selection as module
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


def test_what_a_warning_rests_on_is_a_line_a_round_and_a_few_more(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[tuple[int, str]]] = []

    def noting(lines: Any) -> Any:
        lines = list(lines)
        read.append([(line["round"], line["stage"]) for line in lines])
        return by_round(lines)

    monkeypatch.setattr(module, "by_round", noting)
    small = {"prompts": 8, "max_tokens": 16}
    played(config(rounds=4, rollout=small, train={"rollouts_per_step": 8}))
    stages = ("rollout", "score", "select", "train")
    first, between, last = ([(n, stage) for stage in stages] for n in (0, 2, 3))
    assert read[3] == [*first, (1, "select"), *between, *last[2:3]]
