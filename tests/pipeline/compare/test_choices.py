"""What rules choose of a scored round: shares that add up, and no table that says nothing."""

import pytest
from tip.pipeline.compare.choices import choices, scored_round, tables_of
from tip.pipeline.compare.rows import ALL, ALL_TOKENS, RANDOM, Row, Tokens
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session

from ..conftest import MakeConfig


@pytest.fixture(scope="module")
def session(shared: MakeConfig) -> Session:
    session = open_session(shared(rounds=1, rollout={"prompts": 32}))
    play(session)
    return session


def test_a_table_that_says_nothing_is_left_out(session: Session) -> None:
    def names(*rules: str) -> list[str]:
        rows = [ALL_TOKENS, Row(RANDOM, 0.2), *(Row(rule, 0.2) for rule in rules)]
        return list(tables_of(rows, session, session.config.select, 2))

    assert names() == ["where the types lie"]
    chosen, overlap = "chosen at 20%", "common tokens at 20%"
    assert names("q3") == [chosen, overlap, "where the types lie", "oracle"]
    ranks = "rank correlation of importance"
    rows = [Row("q3", Tokens(1)), Row("q3", 0.5), Row("q3", Tokens(20)), Row("q3", 0.7)]
    tables = tables_of(rows, session, session.config.select, 0)
    sizes = ["70%", "50%", "20 tokens", "1 token"]
    assert [name for name in tables if "chosen" in name] == [f"chosen at {s}" for s in sizes]
    assert tables["chosen at 1 token"]["tokens"].to_list() == [32, 32], "random and q3: one each"
    assert names("q3", "soft_or") == [chosen, overlap, ranks, "where the types lie", "oracle"]


def test_what_a_rule_chooses_is_counted(session: Session) -> None:
    scored = scored_round(session, 0)
    tokens = scored.table()
    chosen = {rule: scored.chosen(rule, 0.2) for rule in (ALL, RANDOM, "divergence")}
    lines = {line["rule"]: line for line in choices(scored, chosen).to_dicts()}
    every, random, divergence = lines[ALL], lines[RANDOM], lines["divergence"]
    assert every["tokens"] == tokens.height
    assert (every["share"], every["KL share"]) == (1.0, pytest.approx(1.0))
    for line in lines.values():
        assert sum(line[kind] for kind in ("Q1", "Q2", "Q3", "Q4")) == pytest.approx(1)
        assert 0 < line["relative_position"] <= 1
    assert random["tokens"] == divergence["tokens"] < 0.2 * tokens.height
    best = tokens.sort("reverse_kl", descending=True).head(divergence["tokens"])
    most = best["reverse_kl"].sum() / tokens["reverse_kl"].sum()
    assert random["KL share"] < divergence["KL share"] <= most + 1e-6
