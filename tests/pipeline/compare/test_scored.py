"""A scored round gives each rule's choice under the run's own settings, and importance of all."""

from pathlib import Path

import pytest
from tip.pipeline.compare.scored import ScoredRound
from tip.stages.select.settings import SelectSettings
from token_tables import VOCABULARY, rollout_table, token_table, write_parts


def scored(folder: Path, **settings: object) -> ScoredRound:
    tokens = token_table(0, [200, 1, 77, 35])
    return ScoredRound(
        rollouts=tuple(write_parts(folder / "rollouts", rollout_table(tokens), 2)),
        teacher=(),
        tokens=tuple(write_parts(folder / "tokens", tokens, 2)),
        settings=SelectSettings.model_validate(settings),
        seed=0,
        vocabulary=VOCABULARY,
        threads=1,
    )


def test_a_choice_keeps_the_settings_beside_rule_and_budget(tmp_path: Path) -> None:
    round_ = scored(tmp_path, scope="round", rule="soft_or", keep=0.5)
    trainable = round_.table().filter("trainable")
    best = trainable.sort("reverse_kl", descending=True).head(int(0.1 * trainable.height))
    chosen = round_.chosen("divergence", 0.1)
    found, expected = (set(f.select("rollout", "position").iter_rows()) for f in (chosen, best))
    assert found == expected
    apart = scored(tmp_path, scope="rollout").chosen("divergence", 0.1)
    assert set(apart.select("rollout", "position").iter_rows()) != expected


def test_a_choice_is_among_what_the_condition_leaves_and_an_order_is_of_all(tmp_path: Path) -> None:
    round_ = scored(tmp_path, where="position < 3")
    assert round_.chosen("divergence", 1.0)["position"].max() == 2
    trainable = round_.table().filter("trainable")
    assert round_.ranked("divergence").height == trainable.height
    assert round_.importances(["divergence"])["divergence"].n_unique() > trainable.height / 2


def test_a_choice_has_the_parameters_of_its_rule(tmp_path: Path) -> None:
    round_ = scored(tmp_path, params={"tokens": 3}, corrected=True)
    assert round_.chosen("horizon", 0.2)["position"].max() == 2
    assert round_.chosen("divergence", 1.0)["position"].max() > 2


def test_a_token_that_a_rule_cannot_keep_is_less_important_than_all_others(tmp_path: Path) -> None:
    round_ = scored(tmp_path)
    every = round_.importances(["type_q3", "divergence"])
    trainable = round_.table().filter("trainable")
    assert every.height == trainable.height
    kept = round_.chosen("type_q3", 1.0)
    assert kept.height < every.height
    rest = every.join(kept, on=["rollout", "position"], how="anti")["type_q3"]
    assert rest.to_list() == [pytest.approx(kept["importance"].min() - 1)] * rest.len()
    both = every.join(trainable, on=["rollout", "position"])
    assert both["divergence"].rank().equals(both["reverse_kl"].clip(0).rank())
