"""A vLLM teacher that runs out of memory goes on with less."""

from typing import Any

import pytest
from tip.stages.engines.vllm.messages import EngineFacts
from tip.stages.engines.vllm.scorer import VllmScorer
from tip.stages.engines.vllm.words import EngineMemoryError


class TightEngine:
    """Runs out of memory above 300 tokens a batch, at work, as vLLM does."""

    def __init__(self, batch: int) -> None:
        self.facts = EngineFacts("stand-in", 60, 128, batch, False)
        self.vocabulary, self.given_ids = 60, False

    def score(self, *_: Any) -> str:
        if self.facts.batch_tokens > 300:
            raise EngineMemoryError("too little memory")
        return "scored"


def test_a_scoring_that_runs_out_of_memory_goes_on_with_half_the_batch() -> None:
    tried: list[int | None] = []
    said: list[str] = []

    def start(batch: int | None) -> Any:
        tried.append(batch)
        return TightEngine(batch or 1024)

    scorer = VllmScorer(start, said.append)
    assert scorer.score([], [], 1) == "scored"
    assert tried == [None, 512, 256]
    assert "vllm.batch_tokens = 256" in said[-1]


def test_a_scoring_without_memory_for_the_least_batch_gives_up() -> None:
    class Full(TightEngine):
        def score(self, *_: Any) -> str:
            raise EngineMemoryError("too little memory")

    with pytest.raises(EngineMemoryError):
        VllmScorer(lambda batch: Full(batch or 256), lambda _: None).score([], [], 1)
