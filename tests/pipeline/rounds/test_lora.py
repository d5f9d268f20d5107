"""A run of adapters plays and goes on like any other, and shows others merged students."""

from pathlib import Path

import pytest
import torch
from tip.pipeline.checks import check_inputs
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.branching import branch
from tip.pipeline.session import Session, look_at, open_session
from tip.stages.models.card import card_of
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ConfigError, ModelError

from ..conftest import MakeConfig, artifacts, contents, numbers, played

LORA = {"lr": 3e-3, "lora": {"rank": 8, "alpha": 16}, "export_dtype": "float32"}
SMALL = {"rollout": {"prompts": 32}}


@pytest.fixture(scope="module")
def adapters(shared: MakeConfig) -> Session:
    """Return a run of two rounds."""
    return played(shared(train=LORA | {"keep_states": 2}, **SMALL))


def test_two_rounds_of_adapters_lower_the_loss_and_leave_small_states(adapters: Session) -> None:
    first, second = numbers(adapters, "train", "loss")
    assert second < first
    sizes = [sum(f.stat().st_size for f in p.iterdir()) for p in adapters.run.kept_states()]
    rounds = len(list(adapters.run.rounds()))
    assert len(sizes) == rounds
    again = look_at(adapters.config.model_copy(update={"rounds": rounds + 1}))
    weights = plan_of(again, None).weights
    assert weights is not None
    assert weights.state == pytest.approx(max(sizes), rel=0.15), "masters and two moments"


def test_a_checkpoint_is_a_plain_model_folder(adapters: Session) -> None:
    *_, last = artifacts(adapters, "checkpoint")
    folder = adapters.store.path(last, "config.json").parent
    settings = ModelSettings(model=str(folder))
    model = load_model(card_of(folder, settings), torch.device("cpu"), torch.float32)
    assert not any("lora" in name for name, _ in model.model.named_parameters())


def test_a_branch_of_adapters_continues_as_the_run_did(
    adapters: Session, shared: MakeConfig
) -> None:
    settings = shared("twin", train=LORA, **SMALL)
    branch(open_session(settings), "run@1")
    assert contents(played(settings)) == contents(adapters)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"lr": 3e-3}, "train.lora = {.*but this config has None"),
        (LORA | {"optimizer": "adamw8bit"}, "train.optimizer = 'adamw'"),
    ],
)
def test_a_branch_that_trains_other_weights_is_refused(
    adapters: Session, shared: MakeConfig, train: dict, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        branch(open_session(shared("else", train=train, **SMALL)), "run@1")


@pytest.mark.parametrize(
    ("train", "error", "said"),
    [
        ({"lora": {"targets": ["query"]}}, ModelError, "names 'query', and no linear layer"),
        ({"lora": {"bits": 4}}, ConfigError, "bits = 4 needs a GPU, and device is cpu"),
    ],
)
def test_what_cannot_be_trained_is_met_before_any_work(
    config: MakeConfig, tmp_path: Path, train: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        check_inputs(open_session(config(device="cpu", train=train)).inputs)


@pytest.mark.parametrize("optimizer", ["adamw8bit"])
def test_moments_in_8_bits_play_two_rounds(config: MakeConfig, optimizer: str) -> None:
    session = played(config(train={"optimizer": optimizer}, **SMALL))
    first, second = numbers(session, "train", "loss")
    assert second < first
