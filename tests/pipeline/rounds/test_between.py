"""Between the stages of a run: what is loaded, what is written beside, and that no bit changes."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tip.pipeline.config.run import RunConfig
from tip.pipeline.progress import Reporter, Tick
from tip.pipeline.rounds import training as module_of_trainings
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages import holder as module
from tip.stages.holder import Holder
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.weights import Weights
from tip.stages.train import states as module_of_states
from tip.stages.train.states import States
from tip.storage.errors import StoreError

from ..conftest import Listening, MakeConfig, contents, played
from ..killing import Killed, killed

SMALL: dict[str, Any] = {
    "rollout": {"prompts": 8, "max_tokens": 16},
    "train": {"rollouts_per_step": 4, "lr": 3e-4},
}
LORA = {"train": {"rollouts_per_step": 4, "lora": {"rank": 4}, "lr": 1e-2}}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return who is loaded, as it happens: a folder's name, or `export` for a checkpoint's."""
    real, loaded = module.load_model, list[str]()

    def load(card: Any, *arguments: Any, **more: Any) -> LanguageModel:
        name = card.folder.name
        loaded.append(name if name in ("student", "teacher") else "export")
        return real(card, *arguments, **more)

    monkeypatch.setattr(module, "load_model", load)
    return loaded


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every stage load what it needs."""
    trainee = Holder.trainee

    def load(holder: Holder, weights: Weights, **more: Any) -> LanguageModel:
        holder.release()
        return trainee(holder, weights, **more)

    monkeypatch.setattr(Holder, "trainee", load)
    monkeypatch.setattr(Holder, "adopt", lambda *_: None)


def test_a_student_is_read_once_a_round_where_it_is_shown_to_be_what_was_exported(
    config: MakeConfig, asked: dict[str, object], loads: list[str]
) -> None:
    evaluate = asked | {"reverse_kl": True, "max_tokens": 8, "limit": 8}
    played(config(**SMALL, evaluate=evaluate))
    first = ["teacher", "student", "teacher"]  # a check, and the first evaluation with scores
    assert loads == [*first, *2 * ["export", "teacher"]]


@pytest.mark.parametrize(
    ("changes", "exports"),
    [
        ({}, 2),
        ({"student": {"dtype": "bfloat16"}}, 3),  # what is trained is float32
        (LORA, 2),
        pytest.param({"train": {"export_dtype": "float32"}}, 2, marks=pytest.mark.soak),
    ],
    ids=["float32", "bfloat16", "adapters", "exported in float32"],
)
def test_what_stays_in_memory_changes_no_bit(
    config: MakeConfig,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    exports: int,
) -> None:
    found = contents(played(settings_of(config, "kept", **changes)))
    assert loads.count("export") == exports
    with monkeypatch.context() as patch:
        forgetful(patch)
        assert contents(played(settings_of(config, "loaded", **changes))) == found
    assert loads.count("export") > 2 * exports


def test_a_model_that_lies_elsewhere_is_not_adopted(config: MakeConfig) -> None:
    session = played(config(**SMALL, rounds=1))
    holder = session.executor.holder  # type: ignore[attr-defined]
    weights = session.student(0)
    model = holder.model(weights)
    holder.release()
    elsewhere = LanguageModel(model.model, model.card, torch.device("meta"), model.dtype)
    holder.adopt(weights, elsewhere)
    assert holder.model(weights) is not elsewhere


def settings_of(config: MakeConfig, name: str, **changes: Any) -> RunConfig:
    """Return the config of a run whose store and folder are its own."""
    folder = config().store.removesuffix("store")
    places = {"store": f"{folder}/{name}", "runs": f"{folder}/{name}-runs"}
    return config("run", **SMALL | changes | places)


def states(session: Session) -> dict[str, str]:
    """Return what each training state of a run says of itself, with its hashes."""
    found = session.run.kept_states()
    return {path.name: sealed(path) for path in found}


def sealed(state: Path) -> str:
    with safe_open(state / "state.safetensors", framework="pt") as file:
        return file.metadata()["sealed"]


class Unwritten:
    """Lets a process end before the state of its training of a number is on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, training: int) -> None:
        self.left, real = 0, States.leave

        def leave(states: States, *arguments: Any) -> None:
            self.left += 1
            if self.left <= training:
                real(states, *arguments)

        monkeypatch.setattr(States, "leave", leave)


@pytest.fixture(scope="module")
def whole(shared: MakeConfig) -> Session:
    return played(shared(**SMALL))


@pytest.mark.parametrize(
    ("training", "kept"),
    [
        (0, None),
        (1, 1),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in ((0, 1), (1, None))),
    ],
)
def test_a_run_killed_before_a_state_is_written_goes_on_to_the_same_bits(
    config: MakeConfig,
    whole: Session,
    monkeypatch: pytest.MonkeyPatch,
    training: int,
    kept: int | None,
) -> None:
    settings = settings_of(config, "killed", train=SMALL["train"] | {"keep_states": kept})
    with monkeypatch.context() as patch:
        Unwritten(patch, training)
        real = module_of_trainings.ensure_state

        def ensure(session: Session, number: int, key: str) -> Path:
            return killed() if number == training else real(session, number, key)  # type: ignore

        patch.setattr(module_of_trainings, "ensure_state", ensure)
        with pytest.raises(Killed):
            played(settings)
    session = open_session(settings)
    pointers = session.run.round(training)
    assert pointers is not None
    assert pointers.owes == pointers.checkpoint is not None
    assert session.run.find_state(str(pointers.checkpoint)) is None
    play(session)
    assert contents(session) == contents(whole)
    assert states(session) == states(whole)
    assert [p.dump() for _, p in session.run.rounds()] == [p.dump() for _, p in whole.run.rounds()]


def test_a_full_disk_is_told_at_the_next_stage_and_room_is_enough(
    config: MakeConfig, whole: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, real = settings_of(config, "full"), States.leave

    def leave(states: States, *arguments: Any) -> None:
        real(states, *arguments)
        wait([states._writing])  # type: ignore[list-item]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reporter = Listening()
    with monkeypatch.context() as patch:
        patch.setattr(States, "leave", leave)
        patch.setattr("tip.stages.train.state.write_tensors", full)
        with pytest.raises(StoreError, match="training state cannot be written"):
            play(open_session(settings, reporter))
    assert [text.split()[2] for text in reporter.said if text.startswith("round")][-1] == "train"
    session = played(settings)
    assert contents(session) == contents(whole)
    assert states(session) == states(whole)


def test_a_state_is_written_while_the_next_stages_go_on(
    config: MakeConfig, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, real, order = threading.Event(), module_of_states.write_state, list[str]()

    def write(path: Path, *rest: Any) -> str:
        assert began.wait(60)
        order.append("state")
        return real(path, *rest)

    class Beginning(Reporter):
        @contextmanager
        def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
            order.append(title)
            if title in ("round 1 evaluate", "round 2 evaluate"):
                began.set()
            with super().bar(title, total, unit) as tick:
                yield tick
            if title == "round 1 rollout":
                began.clear()

    monkeypatch.setattr(module_of_states, "write_state", write)
    evaluate = asked | {"max_tokens": 8, "limit": 8}
    session = open_session(config(**SMALL, evaluate=evaluate), Beginning(quiet=True))
    play(session)
    for number in range(2):
        evaluation = order.index(f"round {number + 1} evaluate")
        assert order.index(f"round {number} train") < evaluation < order.index("state")
        order.remove("state")
    assert len(session.run.kept_states()) == 1
