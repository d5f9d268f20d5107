"""A teacher held by vLLM, as a scorer."""

from collections.abc import Callable, Sequence

import numpy as np

from ..protocols import Scored, Tick, silent
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
            try:
                return self._engine.score(sequences, starts, top, given, tick)
            except EngineMemoryError as error:
                half = self._engine.facts.batch_tokens // 2
                if half < _LEAST_BATCH:
                    raise
                self._say(f"note: {error}; trying again with vllm.batch_tokens = {half}")
                self._engine = self._start(half)
