"""Keys that stores in use are found by: a change here orphans every store there is.

A key may change only with the stage's VERSION, on purpose, with a line in CHANGELOG. A type spelled
`float32` instead of `torch.float32`, a tuple that becomes a string or a setting that leaves its
inputs would pass every other test.
"""

from importlib.resources import files
from pathlib import Path

import pytest
from tiny import prompt
from tip.stages.evaluate.evaluate import evaluate_inputs
from tip.stages.evaluate.settings import EvaluateSettings
from tip.stages.models.card import read_card
from tip.stages.models.settings import ModelSettings
from tip.stages.rollout.rollout import rollout_inputs, sampling_of
from tip.stages.rollout.settings import RolloutSettings
from tip.stages.score.keys import engine_teacher_inputs, teacher_inputs, tokens_inputs
from tip.stages.score.settings import ScoreSettings
from tip.stages.select.select import selection_inputs
from tip.stages.select.settings import SelectSettings
from tip.stages.train.schedule import learning_rates
from tip.stages.train.settings import TrainSettings
from tip.stages.train.train import train_inputs
from tip.storage.store.artifacts import artifact_key

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))
PROMPTS = [prompt([5, 6, 7]), prompt([8, 9])]
STUDENT, TEACHER = "5" * 32, "7" * 32
SOURCE = ("a" * 32, "b" * 64)


def rollouts() -> dict:
    settings = RolloutSettings(samples=2, temperature=0.7, stop_ids=(9, 3), batch_size=7)
    sampling = sampling_of(settings, [1, 9], 11)
    return rollout_inputs(STUDENT, "torch.float32", PROMPTS, settings, sampling)


def evaluation() -> dict:
    settings = EvaluateSettings(source="x.jsonl", samples=4, resamples=7, every=3)
    sampling = sampling_of(settings, [1, 9], 11)
    return evaluate_inputs(STUDENT, "torch.bfloat16 fp8", PROMPTS, settings, sampling)


def teacher(shown: list[tuple[int, ...]] | None) -> dict:
    settings = ScoreSettings(mode="separate", batch_tokens=9, check_rows=0)
    return teacher_inputs(TEACHER, "torch.float32", SOURCE, shown, settings)


def engine_teacher() -> dict:
    settings = ScoreSettings(mode="separate", engine="vllm", teacher_top_max=16)
    return engine_teacher_inputs(TEACHER, "torch.bfloat16", SOURCE, None, settings, given_ids=True)


def selection(**changes: object) -> dict:
    settings = SelectSettings.model_validate({"rule": "soft_or_clipped", "memory_gb": 2} | changes)
    return selection_inputs(settings, [SOURCE], seed=3, vocabulary=36)


def training(**changes: object) -> dict:
    usual = {
        "tail": True,
        "lr": 3e-4,
        "betas": (0.9, 0.98),
        "schedule": "linear",
        "snapshot_seconds": 1,
    }
    settings = TrainSettings.model_validate(usual | changes)
    rates = learning_rates(settings, horizon=30, first=8, count=4)
    return train_inputs(STUDENT, SOURCE, [SOURCE, SOURCE], settings, "torch.float32", rates, 3)


GOLDEN = {
    "rollouts": (lambda: artifact_key("rollouts", rollouts()), "01a9d7aa4a876fc8461cd019927a8d41"),
    "evaluation": (
        lambda: artifact_key("evaluation", evaluation()),
        "6730c2efddea794dc13344b09b04ccea",
    ),
    "teacher": (lambda: artifact_key("teacher", teacher(None)), "e536e98c3208f4a1e32725a9c7eb96dc"),
    "teacher shown more": (
        lambda: artifact_key("teacher", teacher([(1, 2)])),
        "9485b562a89f096ce666cb9f0d0c909b",
    ),
    "teacher of an engine": (
        lambda: artifact_key("teacher", engine_teacher()),
        "0d6ebefd121681f29cd398952c5a76ab",
    ),
    "tokens": (
        lambda: artifact_key("tokens", tokens_inputs(STUDENT, "torch.float32", SOURCE, "exact")),
        "1cccc86d7fc7d5a935e9c54e492ce813",
    ),
    "selection": (
        lambda: artifact_key("selection", selection()),
        "5ada22a9fbf881185c9bb95fa0624afa",
    ),
    "selection at medians": (
        lambda: artifact_key(
            "selection", selection(rule="soft_or_sampled", corrected=True, cuts="median")
        ),
        "4aa805a3e5f62b7a63cf951089af081e",
    ),
    "checkpoint": (
        lambda: artifact_key("checkpoint", training()),
        "8ccf943d2e0ef6570424e2f73f0886e0",
    ),
    "checkpoint with a residual": (
        lambda: artifact_key("checkpoint", training(tail="residual")),
        "f58aca991ee820912e1d6c94a59eb870",
    ),
    "the built-in student": (
        lambda: read_card(ModelSettings(model=str(PAIR / "student"))).fingerprint,
        "9e283a0c01a1d6f8fa39d56cac43eceb",
    ),
    "the built-in teacher": (
        lambda: read_card(ModelSettings(model=str(PAIR / "teacher"))).fingerprint,
        "5a0cbfd65722c00da3c5450d2c610835",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_key_is_the_one_that_stores_hold(name: str) -> None:
    key, golden = GOLDEN[name]
    assert key() == golden
