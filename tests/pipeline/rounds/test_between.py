"""Between the stages of a run: what is loaded, and that what stays in memory changes no bit."""

from typing import Any

import pytest
import torch
from tip.pipeline.session import Session
from tip.stages import holder as module
from tip.stages.holder import Holder
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.weights import Weights

from ..conftest import MakeConfig, contents, played

SMALL: dict[str, Any] = {"rollout": {"prompts": 8, "max_tokens": 16}}
LORA = {"train": {"lora": {"rank": 4}, "lr": 1e-2}}


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
        ({"train": {"export_dtype": "float32"}}, 2),
        (LORA, 2),
    ],
    ids=["float32", "bfloat16", "exported in float32", "adapters"],
)
def test_what_stays_in_memory_changes_no_bit(
    config: MakeConfig,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    exports: int,
) -> None:
    def playing(name: str) -> Session:
        folder = config().store.removesuffix("store")
        places = {"store": f"{folder}/{name}", "runs": f"{folder}/{name}-runs"}
        return played(config(name, **SMALL | changes | places))

    found = contents(playing("kept"))
    assert loads.count("export") == exports
    with monkeypatch.context() as patch:
        forgetful(patch)
        assert contents(playing("loaded")) == found
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
