"""Scores of a shard: one key for a teacher's signals, whichever way and by whomever."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.scores import score_works, teacher_works
from tip.pipeline.session import Session, open_session
from tip.pipeline.works.scores import TokensWork
from tip.stages.arrays.ragged import from_lists
from tip.storage.errors import ModelError
from tip.storage.store.store import Artifact, Store
from tip.storage.tables import read_table

from ..conftest import PAIR, Listening, MakeConfig, artifacts, copied, numbers, played, serving

SEPARATE = {"mode": "separate"}


@pytest.fixture(scope="module")
def joint(shared: MakeConfig) -> Session:
    return played(shared(rounds=1))


@pytest.fixture(scope="module")
def alone(joint: Session, shared: MakeConfig) -> Session:
    """Return the run in separate mode, which finds the signals of the joint one."""
    return played(shared("s", rounds=1, score=SEPARATE))


def tables(session: Session, kind: str, shards: int | None = None) -> Any:
    found = artifacts(session, kind)[:shards]
    return read_table([session.store.path(a, kind) for a in found])


def test_a_separate_run_finds_the_signals_of_a_joint_one_and_the_other_way(
    alone: Session, config: MakeConfig
) -> None:
    assert numbers(alone, "score", "teacher_tokens_scored") == [0]
    first = played(config("s2", rounds=1, score=SEPARATE))
    assert numbers(first, "score", "teacher_tokens_scored")[0] > 0
    assert [a.facts["mode"] for a in artifacts(first, "tokens")] == ["support"] * 2
    session = played(config("j2", rounds=1))
    assert {a.key for a in artifacts(session, "teacher")} == {
        a.key for a in artifacts(first, "teacher")
    }


def test_a_selection_from_support_numbers_is_nearly_that_from_exact_ones(
    joint: Session, alone: Session
) -> None:
    chosen = [
        {
            (r, p)
            for r, p, *_ in zip(*(t[c].to_pylist() for c in ("rollout", "position")), strict=True)
        }
        for t in (tables(joint, "selection"), tables(alone, "selection"))
    ]
    jaccard = len(chosen[0] & chosen[1]) / len(chosen[0] | chosen[1])
    assert jaccard > 0.97
    losses = [numbers(s, "train", "loss")[0] for s in (joint, alone)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert numbers(alone, "score", "lost_mass") == [0]


def test_special_tokens_that_a_flag_tells_are_in_the_tables_key_either_way(joint: Session) -> None:
    student, signals = joint.student(0), artifacts(joint, "teacher")[0]
    flagged = replace(student, card=replace(student.card, flagged_ids=(3,)))
    (work, *_) = score_works(joint, student, artifacts(joint, "rollouts"))
    of = signals.key, signals.content
    usual = work.tokens_inputs(*of)
    assert replace(work, student=flagged).tokens_inputs(*of) == usual | {"flagged": [3]}
    alone = TokensWork(flagged, work.source, signals, work.settings)
    assert alone.inputs() == usual | {"flagged": [3], "mode": "support"}


def test_a_table_that_alone_is_missing_costs_a_teachers_pass_and_says_so(
    joint: Session, config: MakeConfig
) -> None:
    ran = copied(joint, config(rounds=1))
    (work, *_) = score_works(ran, ran.student(0), artifacts(ran, "rollouts"))
    teacher, tokens = (made.artifact for made in work.found(ran.store) or ())
    ran.store.remove("tokens", tokens.key)
    assert work.found(ran.store) is None
    ((again, table),) = ran.executor.map([replace(work, made_by="me")], "score")
    assert (again.artifact, again.fresh) == (teacher, False)
    assert (table.fresh, table.artifact.content) == (True, tokens.content)
    assert table.artifact.facts["teacher_tokens"] == teacher.facts["teacher_tokens"]
    assert table.artifact.facts["made_by"] == "me"


def test_signals_that_alone_are_missing_are_made_by_the_teacher_alone(
    joint: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay's student is another: of a pass over both models one half would be thrown away."""
    ran, loaded = copied(joint, config(rounds=1)), []
    real = ran.executor.holder.model  # type: ignore[attr-defined]

    def model(weights: Any) -> Any:
        loaded.append(weights.role)
        return real(weights)

    (work, *_) = teacher_works(ran, artifacts(ran, "rollouts"))
    (found,) = work.found(ran.store) or ()
    ran.store.remove("teacher", found.artifact.key)
    monkeypatch.setattr(ran.executor.holder, "model", model)  # type: ignore[attr-defined]
    ((made,),) = ran.executor.map([work], "score")
    assert (made.artifact.key, made.artifact.rows) == (found.artifact.key, found.artifact.rows)
    assert loaded == ["teacher"]


def test_a_run_with_a_served_teacher_has_the_tables_of_one_in_memory(
    alone: Session, shared: MakeConfig, served: Served
) -> None:
    session = played(shared("served", **serving(served)))
    ours, theirs = tables(session, "teacher"), tables(alone, "teacher", shards=1)
    for name in ("rollout", "position", "ids"):
        assert ours[name].equals(theirs[name])
    values = [from_lists(t["logprobs"]).values.astype(float) for t in (ours, theirs)]
    np.testing.assert_allclose(*values, rtol=2**-9, atol=1e-3)
    again = played(shared("again", **serving(served), select={"rule": "random"}))
    assert numbers(again, "score", "teacher_tokens_scored") == [0]


def test_a_server_with_another_model_than_the_stored_scores_is_refused(
    config: MakeConfig, served: Served
) -> None:
    played(config("served", **serving(served)))
    served.folder = PAIR / "student"
    other = serving(served) | {"rollout": {"prompts": 64}}
    with pytest.raises(ModelError, match="is not the model that made the scores stored"):
        played(config("other", **other))


def test_a_server_that_dies_costs_one_line_and_no_shard(config: MakeConfig, served: Served) -> None:
    settings = serving(served) | {"rollout": {"prompts": 64}}
    settings["teacher"]["server"]["patience_seconds"] = 0.2
    whole = played(config("whole", **settings))
    done = len(artifacts(whole, "teacher"))
    assert done == 2
    fresh = config("late", **settings, seed=1)

    class Dying(Listening):
        def bar(self, title: str, total: int, unit: str) -> Any:
            if "(teacher)" in title:
                served.faults = [None] * 4 + ["drop"] * 1000
            return super().bar(title, total, unit)

    with pytest.raises(ModelError, match=r"does not answer.*what is scored so far is kept"):
        play(open_session(fresh, Dying()))
    served.faults = []
    assert numbers(played(fresh), "score", "tokens")[0] > 0


def test_a_token_table_is_claimed_before_its_signals_can_be_seen(
    joint: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has waited for the signals would score the shard again."""
    ran = copied(joint, config(rounds=1))
    (work, *_) = score_works(ran, ran.student(0), artifacts(ran, "rollouts"))
    found = [made.artifact for made in work.found(ran.store) or ()]
    for artifact in found:
        ran.store.remove(artifact.kind, artifact.key)
    commit, begun = Store._commit, []

    def committed(store: Store, draft: Any, artifact: Artifact) -> Any:
        made = commit(store, draft, artifact)
        if artifact.kind == "teacher":
            inputs = work.tokens_inputs(artifact.key, artifact.content)
            begun.append(Store(str(store)).begin("tokens", inputs, wait=False))
        return made

    monkeypatch.setattr(Store, "_commit", committed)
    (made,) = ran.executor.map([work], "score")
    assert begun == [None]
    assert [each.artifact.content for each in made] == [a.content for a in found]
    assert not list(Path(str(ran.store)).rglob("claim-*"))
