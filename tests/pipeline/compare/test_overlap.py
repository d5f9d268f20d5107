"""Rules are held side by side by the tokens that they share and the order that they give."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from tip.pipeline.compare.overlap import jaccard, rank_correlation, spearman

from .test_scored import scored


def test_common_tokens_are_counted_over_those_of_either_rule(tmp_path: Path) -> None:
    round_, rules = scored(tmp_path), ["random", "divergence", "soft_or"]
    chosen = {rule: round_.chosen(rule, 0.2) for rule in rules}
    table = jaccard(chosen)
    assert table.columns == ["rule", *rules]
    matrix = table.drop("rule").to_numpy()
    assert (matrix == matrix.T).all()
    assert np.diag(matrix).tolist() == [1.0] * 3
    ours, theirs = (chosen[rule].select("rollout", "position") for rule in rules[1:])
    common = ours.join(theirs, on=["rollout", "position"]).height
    assert 0 < common < ours.height
    assert matrix[1, 2] == common / (ours.height + theirs.height - common)


def test_rules_that_keep_nothing_have_no_share_in_common(tmp_path: Path) -> None:
    some = scored(tmp_path).chosen("divergence", 0.2)
    table = jaccard({"none": some.clear(), "some": some})
    assert table["none"].to_list() == [None, 0.0]
    assert table["some"].to_list() == [0.0, 1.0]


def test_rank_correlation_is_a_square_of_spearmans(tmp_path: Path) -> None:
    round_, rules = scored(tmp_path), ["divergence", "soft_or"]
    every = round_.importances(rules)
    expected = spearman(every["divergence"], every["soft_or"])
    assert 0.1 < expected < 0.999
    table = rank_correlation(round_, rules)
    assert table["rule"].to_list() == rules
    matrix = table.drop("rule").to_numpy()
    assert matrix == pytest.approx(np.array([[1, expected], [expected, 1]]), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_spearman_is_the_correlation_of_ranks_with_ties_at_their_mean(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    ours = np.round(rng.gamma(0.4, 1.0, 500), decimals)
    theirs = np.round(ours + rng.gamma(0.4, 1.0, 500), decimals)
    ranks = stats.rankdata(ours), stats.rankdata(theirs)
    expected = np.corrcoef(*ranks)[0, 1]
    found = spearman(pl.Series(ours), pl.Series(theirs))
    assert found == pytest.approx(expected, abs=1e-12)


def test_what_is_constant_has_no_rank_correlation() -> None:
    assert np.isnan(spearman(pl.Series([1.0, 1.0, 1.0]), pl.Series([1.0, 2.0, 3.0])))
