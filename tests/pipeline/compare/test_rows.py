"""What is compared: controls, budgets and varied settings, each under a name of its own."""

from pathlib import Path

import pytest
from tip.pipeline.compare.rows import (
    ALL_TOKENS,
    NO_REFRESH,
    Row,
    Tokens,
    numbers_of_tokens,
    rows_of,
    run_config,
    shares,
)
from tip.storage.errors import ConfigError, InputError

from ..conftest import MakeConfig


def test_the_controls_stand_beside_every_choice_of_rules() -> None:
    names = [row.name for row in rows_of(["q3", "all", "random"], [0.5, 0.1])]
    assert names == [
        "all",
        "no refresh",
        "random 50%",
        "random 10%",
        "opsa 50%",
        "opsa 10%",
        "q3 50%",
        "q3 10%",
    ]


def test_a_varied_setting_gives_a_line_for_each_of_its_values() -> None:
    rows = rows_of(["all", "q3"], [0.1], ["train.loss=reverse_kl,jsd", "train.tail=false"])
    assert [row.name for row in rows] == [
        "all",
        "no refresh",
        "random 10%",
        "opsa 10%",
        "all loss=reverse_kl tail=false",
        "q3 10% loss=reverse_kl tail=false",
        "all loss=jsd tail=false",
        "q3 10% loss=jsd tail=false",
    ]


def test_numbers_of_tokens_are_budgets_beside_shares_with_random_ones_at_each() -> None:
    rows = rows_of(["q3", "horizon"], [0.1, Tokens(1), Tokens(20)])
    assert [row.name for row in rows] == [
        "all",
        "no refresh",
        "random 10%",
        "random 1 token",
        "random 20 tokens",
        "opsa 10%",
        "opsa 1 token",
        "opsa 20 tokens",
        "q3 10%",
        "q3 1 token",
        "q3 20 tokens",
        "horizon 100%",
    ]
    assert rows[-2].run_label == "q3-count-20"
    assert len({Row("q3", 1.0), Row("q3", Tokens(1))}) == 2


def test_a_varied_count_is_the_budget_of_its_lines(config: MakeConfig) -> None:
    varied = rows_of(["q3"], [0.5], ["select.count=1,2", "train.loss=jsd"])
    assert [row.name for row in varied] == [
        "all",
        "no refresh",
        "random 1 token",
        "random 2 tokens",
        "opsa 1 token",
        "opsa 2 tokens",
        "q3 1 token loss=jsd",
        "q3 2 tokens loss=jsd",
    ]
    with pytest.raises(ConfigError, match=r"--vary select\.count few: expected whole numbers"):
        rows_of(["q3"], [0.5], ["select.count=few"])


def test_a_lines_budget_is_its_runs_whatever_the_configs_own_is(config: MakeConfig) -> None:
    for base in (
        config("base", select={"keep": 0.3}),
        config("base", select={"keep": None, "count": 9}),
    ):
        counted = run_config(base, Row("q3", Tokens(2)), 3)
        assert (counted.select.keep, counted.select.count) == (None, 2)
        assert counted.name == "base-q3-count-2-s3"
        shared = run_config(base, Row("q3", 0.1), 3)
        assert (shared.select.keep, shared.select.count) == (0.1, None)


def test_an_alternative_may_be_several_settings_and_controls_of_a_budget_need_one() -> None:
    rows = rows_of(["all"], [0.1], ["rounds=4 rollout.prompts=32, rounds=2 rollout.prompts=64"])
    assert [row.name for row in rows] == [
        "all",
        "no refresh",
        "all rounds=4 prompts=32",
        "all rounds=2 prompts=64",
    ]


def test_the_settings_of_a_line_are_those_of_its_run(config: MakeConfig) -> None:
    changes = ("train.loss=jsd", "rollout.prompts=32")
    changed = run_config(config("base"), Row("q3", 0.1, changes), 3)
    assert (changed.train.loss, changed.rollout.prompts, changed.select.rule) == ("jsd", 32, "q3")
    assert changed.name == "base-q3-0.1-train.loss-jsd-rollout.prompts-32-s3"


def test_a_rule_takes_the_parameters_that_it_has_and_the_correction_if_it_draws(
    config: MakeConfig,
) -> None:
    base = config(select={"params": {"percentile": 0.9, "tokens": 50}, "corrected": True})
    selects = {
        rule: run_config(base, Row(rule, 0.2), 0).select
        for rule in ("all", "random", "soft_or_clipped", "horizon")
    }
    assert {rule: (s.params, s.corrected) for rule, s in selects.items()} == {
        "all": ({}, False),
        "random": ({}, True),
        "soft_or_clipped": ({"percentile": 0.9}, False),
        "horizon": ({"tokens": 50}, False),
    }
    varied = run_config(base, Row("horizon", 1.0, ("select.params.tokens=7",)), 0)
    assert varied.select.params == {"tokens": 7}


def test_names_hold_whole_values() -> None:
    rows = rows_of(["all"], [0.12, 0.124], ["train.lr=0.001,0.0001", "train.clip=0.5,1.5"])
    names = [row.name for row in rows]
    assert "all lr=0.0001 clip=1.5" in names
    assert len({*names}) == len({row.run_label for row in rows}) == len(rows)
    assert [row.name for row in rows_of(["q3"], [0.12, 0.124, 0.07])][-3:] == [
        "q3 12%",
        "q3 12.4%",
        "q3 7%",
    ]


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.sql" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("SELECT *, reverse_kl AS importance FROM tokens")
    with pytest.raises(ConfigError, match=r"share the name `mine-0\.2`: rename a rule file"):
        rows_of([str(path) for path in paths], [0.2])
    with pytest.raises(ConfigError, match="share the name `all temperature=1`"):
        rows_of(["all"], [0.2], ["rollout.temperature=1,evaluate.temperature=1"])


@pytest.mark.parametrize(
    ("vary", "way_out"),
    [
        ("select.keep=0.1,0.2", "--keep"),
        ("select.rule=q3", "--rules"),
        ("train.loss=jsd seed=1,train.loss=reverse_kl seed=2", "--seeds"),
        ("data_seed=1", "--seeds"),
        ("name=a", "--name"),
        ("select=q3", "select.scope"),
    ],
)
def test_what_a_comparison_sets_itself_does_not_vary(vary: str, way_out: str) -> None:
    with pytest.raises(ConfigError, match=f"sets .* itself; use .*{way_out}"):
        rows_of(["all"], [0.1], [vary])


@pytest.mark.parametrize("vary", ["train.loss", "train.loss=", "jsd,reverse_kl", "=jsd"])
def test_a_variation_without_key_or_value_is_refused(vary: str) -> None:
    with pytest.raises(ConfigError, match=r"--vary .*expected"):
        rows_of(["all"], [0.1], [vary])


def test_an_unknown_varied_setting_is_named(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"train.los: unknown key; did you mean loss\?"):
        run_config(config(), Row("all", 1.0, ("train.los=jsd",)), 0)


def test_an_unknown_rule_or_budget_is_refused_before_any_run() -> None:
    with pytest.raises(InputError, match="soft_and"):
        rows_of(["soft_and"], [0.5])
    for texts in (["0.5", "2"], ["0"], ["many"], ["nan"]):
        with pytest.raises(ConfigError, match=r"--keep .*: expected numbers in \(0, 1\]"):
            shares(texts)
    for texts in (["1", "0"], ["1.5"], ["-1"], [""]):
        with pytest.raises(ConfigError, match=r"--count .*: expected whole numbers of tokens"):
            numbers_of_tokens(texts)


def test_no_refresh_answers_all_prompts_with_the_first_student(config: MakeConfig) -> None:
    changed = run_config(config(rounds=3), NO_REFRESH, 7)
    assert (changed.rounds, changed.rollout.prompts, changed.seed) == (1, 192, 7)
    assert (changed.select.rule, changed.select.keep) == ("all", 1.0)


def test_names_and_runs_are_those_that_earlier_comparisons_are_found_by(config: MakeConfig) -> None:
    base = config("base")
    found = {row.name: run_config(base, row, 2).name for row in rows_of(["q3"], [0.5, 0.124])}
    assert found == {
        "all": "base-all-1-s2",
        "no refresh": "base-no-refresh-s2",
        "random 50%": "base-random-0.5-s2",
        "random 12.4%": "base-random-0.124-s2",
        "opsa 50%": "base-opsa-0.5-s2",
        "opsa 12.4%": "base-opsa-0.124-s2",
        "q3 50%": "base-q3-0.5-s2",
        "q3 12.4%": "base-q3-0.124-s2",
    }


def test_no_refresh_is_all_tokens_and_another_row_than_all_tokens() -> None:
    assert (NO_REFRESH.rule, NO_REFRESH.budget) == (ALL_TOKENS.rule, ALL_TOKENS.budget)
    assert len({NO_REFRESH, ALL_TOKENS}) == 2
