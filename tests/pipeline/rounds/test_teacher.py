"""The teacher is met before the first rollouts."""

import shutil
from pathlib import Path

import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages import holder
from tip.stages.models.card import ModelCard
from tip.storage.errors import ModelError

from ..conftest import MakeConfig


def test_a_teacher_that_does_not_load_is_refused_before_the_rollouts(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(config())
    load = holder.load_model

    def fails(card: ModelCard, *args: object, **kwargs: object) -> object:
        if card.fingerprint == session.inputs.teacher_card.fingerprint:
            raise ModelError("its logits hold NaN")
        return load(card, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(holder, "load_model", fails)
    with pytest.raises(ModelError, match="NaN"):
        play(session)
    assert not list(session.store.list("rollouts"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints of what is loaded from now on."""
    seen: list[str] = []
    load = holder.load_model

    def noted(card: ModelCard, *args: object, **kwargs: object) -> object:
        seen.append(card.fingerprint)
        return load(card, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(holder, "load_model", noted)
    return seen


def without_reference(session: Session) -> Session:
    """Return a session whose store knows of no model that was loaded before."""
    shutil.rmtree(Path(session.config.store) / "reference")
    return session


def test_a_teacher_is_met_once_in_a_store(config: MakeConfig, loaded: list[str]) -> None:
    play(open_session(config(rounds=1)))
    loaded.clear()
    play(open_session(config(name="again", rounds=1)))
    assert loaded == []


@pytest.mark.parametrize("name", ["again", "replayed"])
def test_who_trains_on_stored_signals_loads_no_teacher(
    config: MakeConfig, loaded: list[str], name: str
) -> None:
    play(open_session(config(rounds=1)))
    loaded.clear()
    replay = {"rollout": {"replay": "run"}} if name == "replayed" else {}
    session = without_reference(
        open_session(config(name=name, rounds=1, train={"lr": 1e-4}, **replay))
    )
    play(session)
    assert session.inputs.teacher_card.fingerprint not in loaded
    assert session.student(1).fingerprint != session.student(0).fingerprint


def test_the_teacher_of_a_later_round_is_met_before_its_rollouts(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(open_session(config(rounds=1, train={"horizon": 8})))
    session = without_reference(open_session(config(rounds=2, train={"horizon": 8})))
    before = list(session.store.list("rollouts"))

    def refused(card: ModelCard, *_: object, **__: object) -> None:
        raise ModelError(f"{card.folder} does not load")

    monkeypatch.setattr(holder, "load_model", refused)
    with pytest.raises(ModelError, match="teacher does not load"):
        play(session)
    assert list(session.store.list("rollouts")) == before
