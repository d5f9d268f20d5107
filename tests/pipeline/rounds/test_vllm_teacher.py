"""How the teacher's vLLM process is started and kept, with a stand-in for the process."""

from typing import Any, ClassVar

import numpy as np
import pytest
from tip.pipeline.rounds.separate import Teacher
from tip.pipeline.session import Session
from tip.stages.engines.vllm.messages import EngineFacts
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.engines.vllm.words import EngineMemoryError
from tip.storage.errors import ModelError

from ..conftest import MakeConfig

FITS = 100  # tokens that a batch may have


class Engine:
    """Runs out of memory at work where its batch is too large."""

    started: ClassVar[list[EngineSpec]] = []
    given_ids = False

    def __init__(self, spec: EngineSpec) -> None:
        self.started.append(spec)
        batch = spec.batch_tokens or 256
        self.vocabulary, self.closed = 36, False
        self.facts = EngineFacts("stand-in", 36, 128, batch, self.given_ids)

    def score(self, *_: Any) -> list[Any]:
        if self.facts.batch_tokens > FITS:
            raise EngineMemoryError("too little memory")
        return []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr(Engine, "started", [])
    monkeypatch.setattr("tip.pipeline.engines.VllmEngine", Engine)
    return Engine


def session_of(config: MakeConfig, top: int = 4, most: int = 16) -> Session:
    return Session(
        config(
            rollout={"student_top_max": most},
            score={"mode": "separate", "engine": "vllm", "engine_top": top},
        )
    )


@pytest.mark.parametrize(("top", "most", "expected"), [(4, 16, 16), (20, 16, 20), (4, 64, 64)])
def test_an_engine_may_be_asked_for_all_of_the_students_ids(
    config: MakeConfig, engine: type[Engine], top: int, most: int, expected: int
) -> None:
    assert Teacher(session_of(config, top, most))._scorer.vocabulary == 36
    assert engine.started[-1].arguments()["max_logprobs"] == expected


def test_a_batch_that_fits_is_kept_for_the_rounds_to_come(
    config: MakeConfig, engine: type[Engine]
) -> None:
    session = session_of(config)
    for _ in range(2):
        Teacher(session)._scorer.score([np.array([2, 3])], [1], 1)
        session.engines.close()  # as the student's scoring does
    assert [spec.batch_tokens for spec in engine.started] == [None, 128, 64, 64]


def test_another_runner_than_the_one_in_the_key_is_refused(
    config: MakeConfig, engine: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "given_ids", True)
    with pytest.raises(ModelError, match="take VLLM_USE_V2_MODEL_RUNNER out"):
        _ = Teacher(session_of(config))._scorer
    monkeypatch.setattr(Teacher, "_asks_ids", True)  # as on a GPU
    assert Teacher(session_of(config))._scorer.given_ids
    monkeypatch.setattr(engine, "given_ids", False)
    with pytest.raises(ModelError, match="set VLLM_USE_V2_MODEL_RUNNER=1"):
        _ = Teacher(session_of(config))._scorer
