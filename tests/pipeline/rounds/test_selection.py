"""The select stage of a round: made once, recorded with what it came to."""

from dataclasses import replace
from pathlib import Path

from tip.pipeline.metrics import by_round
from tip.pipeline.rounds import selection as module
from tip.pipeline.rounds.selection import ensure_selection
from tip.pipeline.session import open_session
from tip.pipeline.stability import warning
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


def test_a_rule_that_fills_its_budget_with_tokens_of_no_importance_is_told_of(
    config: MakeConfig, tmp_path: Path
) -> None:
    rule = tmp_path / "mine.sql"
    for importance, where in (("(position < 1)::INT", ""), ("1", "WHERE position < 1")):
        rule.write_text(f"SELECT *, {importance} AS importance FROM tokens {where}")
        session, reporter = played(config(rounds=1)), Listening()
        select = session.config.select.model_copy(update={"rule": str(rule)})
        other = session.config.model_copy(update={"select": select})
        shards = artifacts(session, "rollouts"), artifacts(session, "tokens")
        mine = ensure_selection(replace(session, config=other, reporter=reporter), 0, *shards)
        facts, said = SelectionFacts.of(mine), " ".join(reporter.said)
        assert ("fill the budget up" in said) == (where == "")
        assert bool(facts.zeros) == (where == "")
        assert "at most 20% of each rollout, rounded down" in said


def test_a_selection_by_count_is_found_again(config: MakeConfig) -> None:
    counted = config(rounds=1, select={"keep": None, "count": 2})
    (before,) = artifacts(played(counted), "selection")
    facts = SelectionFacts.of(before)
    assert (facts.keep, facts.count) == (None, 2)
    reopened = open_session(counted)
    again = reopened.store.find("selection", before.key)
    assert again is not None
    assert SelectionFacts.of(again) == facts


def test_a_warning_rests_on_few_rounds_and_says_what_all_of_them_would(
    config: MakeConfig,
) -> None:
    settings = config(rounds=6, rollout={"prompts": 8, "max_tokens": 16})
    session = open_session(settings)
    values = (0.5, 0.3, 0.1, 0.2, 0.4, 0.9)
    for start in range(2):
        for number, value in enumerate(values):
            told = {"round": number, "stage": "select", "unselected_reverse_kl": value + 1 - start}
            session.run.append(told)
            session.run.append({"round": number, "stage": "train", "drift_unselected": number / 9})
    for number in range(1, len(values)):
        few = module._of_warning(session, number)
        assert warning(few, number, settings) == warning(
            by_round(session.run.metrics()), number, settings
        )
        assert set(few) == {0, min(number, 2), number - 1, number}
    assert warning(module._of_warning(session, 5), 5, settings) is not None
