"""Rules are held against what each token could teach, and nothing is left in the run's folder."""

import polars as pl
import pytest
import torch
from tip.pipeline.compare.choices import scored_round
from tip.pipeline.compare.oracle import to_oracle
from tip.pipeline.session import Session
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.load import load_model
from tip.stages.signals.objective import Objective

from ..conftest import MakeConfig, played


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared(rounds=1, rollout={"prompts": 8}))


def first_student(session: Session) -> LanguageModel:
    return load_model(session.student(0).card, torch.device("cpu"), torch.float32)


def test_a_sample_of_rollouts_is_asked_and_the_best_rule_stands_first(ran: Session) -> None:
    scored, student, told = scored_round(ran, 0), first_student(ran), []
    before = {path for path in ran.run.path.rglob("*")}
    found = to_oracle(
        scored, ["divergence", "entropy_top"], 5, student, Objective("reverse_kl"), told.append
    )
    assert sum(told) == 5
    assert {path for path in ran.run.path.rglob("*")} == before
    rows = sorted(pl.read_parquet(scored.rollouts[0])["response_ids"].list.len().to_list())
    assert sum(rows[:5]) <= found["tokens"].item(0) <= sum(rows[-5:])
    correlations = found["rank_correlation"].to_list()
    assert correlations == sorted(correlations, reverse=True)
    assert found["rule"].to_list() == ["divergence", "entropy_top"]
    assert found["top_share"].item(0) > 0.5


def test_all_rollouts_are_asked_where_more_are_wanted(ran: Session) -> None:
    scored, told = scored_round(ran, 0), []
    found = to_oracle(
        scored, ["q3"], 1000, first_student(ran), Objective("reverse_kl"), told.append
    )
    assert sum(told) == 8
    assert found["tokens"].item() == scored.table().height


def test_a_loss_without_a_teacher_is_taught_by_the_improbable_tokens(ran: Session) -> None:
    scored = scored_round(ran, 0)
    found = to_oracle(scored, ["low_logprob"], 4, first_student(ran), Objective("suppress"))
    assert found["rank_correlation"].item() > 0.2
