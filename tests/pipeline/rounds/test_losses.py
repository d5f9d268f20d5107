"""Runs whose tokens name their losses: what they tell, and what their supports cannot serve."""

from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.rounds.identity import check
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.storage.errors import ConfigError

from ..conftest import Listening, MakeConfig, artifacts, numbers, played

SMALL: dict[str, Any] = {"rounds": 1, "rollout": {"prompts": 32}}
SAMPLED: dict[str, Any] = {"score": {"support": "sampled"}, "train": {"loss": "forward_kl"}}


def test_a_run_without_a_teacher_lowers_what_it_sampled(config: MakeConfig) -> None:
    session = played(config(select={"rule": "opsa", "keep": 0.2}, **SMALL))
    (losses,) = numbers(session, "select", "losses")
    (kept,) = numbers(session, "select", "kept")
    assert losses == {"suppress": kept}
    (loss,) = numbers(session, "train", "loss")
    assert loss < 0, "the mean log-prob of improbable tokens"


def test_a_rule_of_two_losses_shares_its_tokens_between_them(config: MakeConfig) -> None:
    rule = {"rule": "eopd", "params": {"tau": 0.5}}
    session = played(config(select=rule, **SMALL))
    (losses,) = numbers(session, "select", "losses")
    assert set(losses) == {"reverse_kl", "jeffreys"}
    assert sum(losses.values()) == numbers(session, "select", "kept")[0]


def test_what_a_limit_took_off_is_told_and_makes_another_training(config: MakeConfig) -> None:
    plain = played(config("plain", **SMALL))
    said = Listening()
    session = open_session(config("clipped", train={"clip_token": 0.2, "lr": 3e-4}, **SMALL), said)
    play(session)
    (one,), (other,) = artifacts(plain, "checkpoint"), artifacts(session, "checkpoint")
    assert one.key != other.key
    assert "clip" not in one.facts
    (told,) = numbers(session, "train", "clip")
    assert told == other.facts["clip"]
    assert 0 < told["tokens"] < 1
    assert told["nats"] > 0
    assert any("taken off" in text for text in said.said)


@pytest.mark.parametrize(
    ("rule", "word"), [("opsa", "suppress"), ("eopd", "reverse_kl"), ("mine.sql", "jsd")]
)
def test_shares_of_draws_refuse_a_rule_with_another_loss_before_any_work(
    config: MakeConfig, tmp_path: Path, rule: str, word: str
) -> None:
    (tmp_path / "mine.sql").write_text("SELECT *, 1 AS importance, 'jsd' AS loss FROM tokens")
    path = str(tmp_path / rule) if rule.endswith(".sql") else rule
    session = open_session(config(select={"rule": path}, **SAMPLED), Listening())
    with pytest.raises(ConfigError, match=rf"rule .*{rule} gives tokens the loss '{word}'") as it:
        check(session)
    assert "\n" not in str(it.value)


def test_a_loss_that_the_sql_does_not_show_is_refused_before_training(
    config: MakeConfig, tmp_path: Path
) -> None:
    hidden = "SELECT *, 1 AS importance, 'supp' || 'ress' AS loss FROM tokens"
    (tmp_path / "hidden.sql").write_text(hidden)
    settings = config(select={"rule": str(tmp_path / "hidden.sql")}, **SMALL, **SAMPLED)
    session = open_session(settings, Listening())
    with pytest.raises(ConfigError, match=r"gives tokens the loss 'suppress', but score.support"):
        play(session)
    assert not artifacts(session, "checkpoint")


def test_shares_of_draws_serve_a_rule_of_forward_kl_and_of_none(
    config: MakeConfig, tmp_path: Path
) -> None:
    words = "CASE WHEN position % 2 = 0 THEN 'forward_kl' ELSE 'none' END"
    (tmp_path / "half.sql").write_text(f"SELECT *, 1 AS importance, {words} AS loss FROM tokens")
    rule = {"rule": str(tmp_path / "half.sql")}
    session = played(config(select=rule, **SMALL, **SAMPLED))
    assert set(numbers(session, "select", "losses")[0]) == {"forward_kl", "none"}
    assert numbers(session, "train", "loss")[0] > 0
