"""Training states: kept for the last rounds, found by the next, made again where they are gone."""

import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages import holder as module
from tip.storage.errors import InputError

from ..conftest import MakeConfig, contents, copied, numbers, played
from ..killing import Killed, KillingReporter

HORIZON = {"train": {"horizon": 20}}


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared(rounds=3, **HORIZON))


def test_an_extension_goes_on_from_the_last_state_and_trains_nothing_again(
    ran: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a start that finds everything keeps what is needed
    play(copied(ran, config(rounds=3, **HORIZON)))
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _, text: said.append(text))
    played(config(rounds=4, **HORIZON))
    assert said
    assert not [text for text in said if "its training state is not here" in text]


def test_a_start_that_finds_its_first_rounds_keeps_the_snapshot_of_a_later_one(
    config: MakeConfig,
) -> None:
    settings = config(train={"snapshot_seconds": 0})
    with pytest.raises(Killed):
        play(open_session(settings, KillingReporter("round 1 train", 3)))
    session = open_session(settings)
    assert len(list((session.run.path / "work").iterdir())) == 1
    resumed: list[int] = []

    class Watching(Reporter):
        @contextmanager
        def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
            yield resumed.append if title == "round 1 train" else lambda _: None

    play(open_session(settings, Watching(quiet=True)))
    assert resumed[0] == 3


def test_a_selection_of_nothing_is_not_trained_on(config: MakeConfig) -> None:
    session = open_session(config(select={"where": "reverse_kl > 1e9"}))
    with pytest.raises(InputError, match=r"select\.where keeps none of the round.s 3,177 "):
        play(session)


def test_a_training_state_that_is_gone_is_made_again(ran: Session, config: MakeConfig) -> None:
    session = played(config(rounds=2, **HORIZON))
    for state in (session.run.path / "states").iterdir():
        shutil.rmtree(state)
        state.mkdir()
        (state / "state.safetensors.1.part").touch()  # killed while it was made again
    assert contents(played(config(rounds=3, **HORIZON))) == contents(ran)


def test_only_the_last_training_states_are_kept(config: MakeConfig) -> None:
    session = played(config(rounds=3, train={"keep_states": 1}))
    assert len(list((session.run.path / "states").iterdir())) == 1
    assert not list((session.run.path / "work").glob("*"))


def test_a_branch_whose_origin_is_trained_again_holds_one_model(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin's training state is gone: it is made in this process, not beside what it holds."""
    origin = played(config(rounds=3))
    settings = config("late", rounds=3, seed=5)
    branch(open_session(settings), "run@1")
    for run in (origin.run, open_session(settings).run):
        shutil.rmtree(run.path / "states")
    alive: list[Any] = []
    real, most = module.load_model, []

    def load(card: Any, device: Any, dtype: Any, **more: Any) -> Any:
        model = real(card, device, dtype, **more)
        alive[:] = [ref for ref in alive if ref() is not None]
        alive.append(weakref.ref(model.model))
        most.append((dtype, len(alive)))
        return model

    monkeypatch.setattr(module, "load_model", load)
    again = played(settings)
    assert numbers(again, "train", "fresh") == [True, True]
    # round 1 rolls out and scores; the origin trains round 0; round 1 trains and reads the export
    # back, which rolls out in round 2, beside the teacher that scores, and is trained further
    assert [count for _, count in most] == [1, 2, 1, 1, 1, 2, 1]
