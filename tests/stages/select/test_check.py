"""A selection that cannot work is refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tip.stages.select.check import check_selection
from tip.stages.select.rulebook import builtin_rules
from tip.stages.select.settings import SelectSettings
from tip.storage.errors import ConfigError, InputError

JOINED = "FROM tokens AS t JOIN rollouts AS r USING (rollout)"


@pytest.fixture
def rule_file(tmp_path: Path) -> Callable[[str], str]:
    def written(sql: str) -> str:
        (tmp_path / "mine.sql").write_text(sql)
        return str(tmp_path / "mine.sql")

    return written


@pytest.mark.parametrize("rule", builtin_rules())
def test_every_built_in_rule_can_be_used(rule: str) -> None:
    check_selection(SelectSettings(rule=rule))


def test_what_is_known_of_a_rollout_may_weigh_it() -> None:
    weight = "(stop_reason = 'stop')::INT * prompt_length / length"
    check_selection(SelectSettings(rollout_weight=weight))


@pytest.mark.parametrize(
    "weight",
    [
        "pass_rate * (1 - pass_rate)",
        "Reward",
        'rollouts."reward" + 1',
        "coalesce(reward, 1)",
        "CASE WHEN length > 9 THEN (SELECT max(reward) FROM rollouts) ELSE 1 END",
        "least(COLUMNS('pass.*'))",
    ],
)
def test_a_weight_of_rewards_is_refused_with_the_reason(weight: str) -> None:
    with pytest.raises(ConfigError, match=r"^rollout_weight asks .* nothing gives rewards yet"):
        check_selection(SelectSettings(rollout_weight=weight))


def test_a_condition_on_rewards_is_refused() -> None:
    where = "rollout IN (SELECT rollout FROM rollouts WHERE reward > 0)"
    with pytest.raises(ConfigError, match=r"^where asks for `reward` or `pass_rate`"):
        check_selection(SelectSettings(where=where))


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT t.*, reverse_kl * reward AS importance {JOINED}",
        f"SELECT t.*, r.pass_rate AS importance {JOINED}",
        "-- round best = (SELECT max(reward) FROM rollouts)\n"
        "SELECT *, getvariable('best') AS importance FROM tokens",
    ],
)
def test_a_rule_that_asks_for_rewards_is_refused_with_its_name(
    rule_file: Callable[[str], str], sql: str
) -> None:
    with pytest.raises(ConfigError, match=r"^rule .*mine.sql asks for `reward`"):
        check_selection(SelectSettings(rule=rule_file(sql)))


@pytest.mark.parametrize(
    "sql",
    [
        "-- No reward here.\nSELECT *, length('reward') AS importance FROM tokens",
        "WITH r AS (SELECT rollout, length AS reward FROM rollouts) "
        "SELECT tokens.*, reward AS importance FROM tokens JOIN r USING (rollout)",
        f"SELECT t.*, r.length AS importance, r.* EXCLUDE (rollout) {JOINED}",
    ],
)
def test_a_rule_that_only_has_the_word_may_be_used(
    rule_file: Callable[[str], str], sql: str
) -> None:
    check_selection(SelectSettings(rule=rule_file(sql)))


def test_what_else_is_wrong_is_said_as_selection_says_it() -> None:
    with pytest.raises(InputError, match="rollout_weight: there is no column `rewards`"):
        check_selection(SelectSettings(rollout_weight="rewards"))
    with pytest.raises(InputError, match="where: there is no column `no_such`"):
        check_selection(SelectSettings(where="no_such > 1", rollout_weight="reward"))
    with pytest.raises(ConfigError, match="corrected = true"):
        check_selection(SelectSettings(rule="all", corrected=True))
