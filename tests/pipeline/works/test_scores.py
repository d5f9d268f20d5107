"""Separate mode through the store: shared with joint mode, one model at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.arrays.ragged import from_lists
from tip.storage.errors import ConfigError, ModelError
from tip.storage.tables import read_table

from ..conftest import PAIR, MakeConfig, numbers

SEPARATE = {"mode": "separate"}


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def played(config: Any) -> Session:
    session = open_session(config, Listening())
    play(session)
    return session


def artifacts(session: Session, kind: str) -> list[Any]:
    keys = [key for _, pointers in session.run.rounds() for key in pointers.of(kind)]
    return [session.store.find(kind, key) for key in keys]


def tables(session: Session, kind: str) -> Any:
    return read_table([session.store.path(a, kind) for a in artifacts(session, kind)])


def test_a_separate_run_finds_the_signals_of_a_joint_one_and_the_other_way(
    config: MakeConfig, tmp_path: Path
) -> None:
    played(config(rounds=1))
    assert numbers(
        played(config("s", rounds=1, score=SEPARATE)), "score", "teacher_tokens_scored"
    ) == [0]
    elsewhere = {"store": str(tmp_path / "other"), "rounds": 1}
    first = played(config("s2", score=SEPARATE, **elsewhere))
    assert numbers(first, "score", "teacher_tokens_scored")[0] > 0
    assert [a.facts["mode"] for a in artifacts(first, "tokens")] == ["support"] * 2
    session = open_session(config("j2", **elsewhere))
    play(session)
    assert {a.key for a in artifacts(session, "teacher")} == {
        a.key for a in artifacts(first, "teacher")
    }


def test_no_two_models_are_in_memory(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from tip.stages import holder as module

    real, seen = module.load_model, []
    session = open_session(config(rounds=2, score=SEPARATE))
    holder = session.executor.holder  # type: ignore[attr-defined]

    def load(card: Any, *rest: Any, **more: Any) -> Any:
        seen.append(card.folder.name)
        assert not holder._models, "another model is in memory"
        return real(card, *rest, **more)

    monkeypatch.setattr(module, "load_model", load)
    play(session)
    # round by round: student rolls out, teacher scores, student scores, student is trained
    assert len(seen) == 8


def test_a_selection_from_support_numbers_is_nearly_that_from_exact_ones(
    config: MakeConfig,
) -> None:
    joint, alone = played(config(rounds=1)), played(config("s", rounds=1, score=SEPARATE))
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


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served(PAIR / "teacher")
    server.longest = 4096
    yield server
    server.stop()


def serving(served: Served) -> dict[str, Any]:
    return {
        "rounds": 1,
        "rollout": {"prompts": 32},
        "score": {"mode": "separate", "engine": "server"},
        "teacher": {"server": {"url": served.url, "patience_seconds": 5}},
    }


def test_a_run_with_a_served_teacher_has_the_tables_of_one_in_memory(
    config: MakeConfig, served: Served
) -> None:
    alone = played(config("s", rounds=1, rollout={"prompts": 32}, score=SEPARATE))
    session = played(config("served", **serving(served)))
    ours, theirs = tables(session, "teacher"), tables(alone, "teacher")
    for name in ("rollout", "position", "ids"):
        assert ours[name].equals(theirs[name])
    values = [from_lists(t["logprobs"]).values.astype(float) for t in (ours, theirs)]
    np.testing.assert_allclose(*values, rtol=2**-9, atol=1e-3)
    again = played(config("again", **serving(served), select={"rule": "random"}))
    assert numbers(again, "score", "teacher_tokens_scored") == [0]


def test_the_type_of_a_server_is_not_that_of_this_device(
    config: MakeConfig, served: Served
) -> None:
    session = played(config("served", **serving(served)))
    assert {a.inputs["dtype"] for a in artifacts(session, "teacher")} == {"torch.bfloat16"}
    said = serving(served)
    said["teacher"]["dtype"] = "float32"
    assert {a.inputs["dtype"] for a in artifacts(played(config("said", **said)), "teacher")} == {
        "torch.float32"
    }


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


def test_a_server_needs_its_section_and_the_section_its_engine(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"score.engine = 'server' and the section"):
        config(score={"mode": "separate", "engine": "server"})
    with pytest.raises(ConfigError, match=r"teacher.server is there"):
        config(teacher={"server": {"url": "http://x"}})


def test_an_engine_that_holds_the_teacher_alone_is_refused_in_joint_mode(
    config: MakeConfig,
) -> None:
    with pytest.raises(ConfigError, match=r"mode = 'joint'.*set mode = 'separate'"):
        config(score={"engine": "vllm"})
