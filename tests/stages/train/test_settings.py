"""A setting of training that means nothing is refused."""

from typing import Any

import pytest
from pydantic import ValidationError
from tip.stages.train.settings import TrainSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "kl"},
        {"tail": "sampled"},
        {"residual_cap": 0.9},
        {"normalise": "sum"},
        {"rollouts_per_step": 0},
        {"epochs": 0},
        {"lr": 0.0},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
        {"weight_decay": -0.1},
        {"warmup_steps": -1},
        {"schedule": "step"},
        {"min_lr_frac": 1.1},
        {"horizon": 0},
        {"clip": 0.0},
        {"autocast": "float16"},
        {"export_dtype": "auto"},
        {"snapshot_seconds": -1.0},
        {"learning_rate": 1e-6},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        TrainSettings(**changes)
