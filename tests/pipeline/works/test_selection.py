"""A selection's key is its tables, its rule, seed and vocabulary, and nothing of how fast."""

from dataclasses import replace

import pytest
from tip.pipeline.session import Session
from tip.pipeline.works.selection import SelectWork
from tip.storage.facts import SelectionFacts

from ..conftest import MakeConfig, artifacts, copied


@pytest.fixture
def work(ran: Session) -> SelectWork:
    config = ran.config
    return SelectWork(
        tuple(artifacts(ran, "rollouts")),
        tuple(artifacts(ran, "tokens")),
        config.select,
        config.seed,
        ran.inputs.student_card.head_rows,
        config.threads,
    )


def test_threads_make_no_other_selection_and_everything_else_does(
    ran: Session, work: SelectWork
) -> None:
    found = replace(work, threads=2).found(ran.store) or ()
    assert [made.artifact for made in found] == artifacts(ran, "selection")
    rule = work.settings.model_copy(update={"keep": 0.3})
    others = ({"tokens": work.tokens[:1]}, {"settings": rule}, {"seed": 1}, {"vocabulary": 9})
    for changes in others:
        assert replace(work, **changes).found(ran.store) is None, changes


def test_a_selection_that_is_not_there_is_made_once(
    ran: Session, work: SelectWork, config: MakeConfig
) -> None:
    session = copied(ran, config(rounds=1))
    other = replace(work, settings=work.settings.model_copy(update={"keep": 0.5}))
    ((made,),) = session.executor.map([other], "select")
    assert made.fresh
    facts = SelectionFacts.of(made.artifact)
    assert (facts.keep, facts.kept) == (0.5, made.artifact.rows)
    ((again,),) = session.executor.map([other], "select")
    assert (again.artifact, again.fresh) == (made.artifact, False)
