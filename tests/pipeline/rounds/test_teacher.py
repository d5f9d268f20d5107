"""The teacher is met before the first rollouts."""

import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
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


def test_a_teacher_is_met_once_in_a_store(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(open_session(config(rounds=1)))
    session, loaded = open_session(config(name="again", rounds=1)), []
    load = holder.load_model

    def counted(*args: object, **kwargs: object) -> object:
        loaded.append(args)
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(holder, "load_model", counted)
    play(session)
    assert loaded == []
