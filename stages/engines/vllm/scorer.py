"""A teacher held by vLLM, as a scorer."""

from collections.abc import Callable, Sequence

import numpy as np

from ....storage.errors import ModelError
from ..protocols import Scored, Scorer, Tick, silent
from .engine import VllmEngine
from .words import EngineMemoryError

_LEAST_BATCH = 64  # tokens; a scoring batch below is not tried


class VllmScorer:
    """vLLM in a process of its own; one that runs out of memory starts again with half a batch."""

    def __init__(
        self, start: Callable[[int | None], VllmEngine], say: Callable[[str], None]
    ) -> None:
        """start: a process for tokens a batch (None: as set). say: tells the user of a new try."""
        self._start, self._say = start, say
        self._engine = start(None)
        self.vocabulary, self.given_ids = self._engine.vocabulary, self._engine.given_ids

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[Scored]:
        """Return what the teacher says; see `Scorer`."""
        while True:
            told: list[int] = []

            def ticked(count: int, told: list[int] = told) -> None:
                told.append(count)
                tick(count)

            try:
                return self._engine.score(sequences, starts, top, given, ticked)
            except EngineMemoryError as error:
                tick(-sum(told))  # all of it is read again
                half = self._engine.facts.batch_tokens // 2
                if half < _LEAST_BATCH:
                    raise
                self._say(f"note: {error}; trying again with vllm.batch_tokens = {half}")
                self._engine = self._start(half)


def refuse_other_runner(scorer: Scorer, given_ids: bool) -> None:
    """Raise `ModelError` where vLLM was given another runner than the one that keys stand for.

    Of a GPU they say that it is asked for the student's ids, of a CPU that it is not.
    """
    if scorer.given_ids == given_ids:
        return
    if given_ids:
        raise ModelError(
            "teacher: this vLLM runs its V1 model runner, which cannot be asked for the student's "
            "ids: set VLLM_USE_V2_MODEL_RUNNER=1 in the environment, or score.engine = "
            "'transformers'"
        )
    raise ModelError(
        "teacher: this vLLM runs its V2 model runner, which is not what scores on a CPU are "
        "stored for: take VLLM_USE_V2_MODEL_RUNNER out of the environment"
    )
