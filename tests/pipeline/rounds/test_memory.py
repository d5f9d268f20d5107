"""One thing at a time holds the memory: training, a loaded model or a vLLM process."""

from typing import Any

import pytest
import torch
from tip.pipeline.rounds import training
from tip.pipeline.rounds.single import rollout_round, score_round, select_round, train_round
from tip.pipeline.session import Session

from ..conftest import MakeConfig


class Process:
    """Stands for a vLLM process."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_training_loads_its_model_when_no_engine_holds_memory(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(config(rounds=1))
    for stage in (rollout_round, score_round, select_round):
        stage(session, 0)
    process: Any = Process()
    session.engines._process = process
    real, loaded = training.load_model, []

    def load(*arguments: Any) -> Any:
        loaded.append(process.closed)
        return real(*arguments)

    monkeypatch.setattr(training, "load_model", load)
    train_round(session, 0)
    assert loaded == [True]


def test_releasing_all_models_empties_the_cache_even_where_none_is_loaded(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, emptied = Session(config()), []
    session.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    session.release_all()
    assert emptied == [True]
