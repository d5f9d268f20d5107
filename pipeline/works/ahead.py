"""Shards that are claimed before they are begun: what an engine has in hand is nobody else's.

An engine in a process of its own computes fastest when it is told early what comes next. So the
claims of the next shards are taken first, then their requests are begun, then each shard is made
and committed in order. A shard that somebody else is making is left to them, and waited for last.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ...stages.engines.protocols import Engine, Request, Sampling
from ...stages.holder import Embedded, Generator, Held, Holder
from ...storage.errors import TipError
from ...storage.facts import EngineGap
from ...storage.store.store import Artifact, Make, Pending, Store
from .reference import reference_of
from .work import Made

BATCHES_AHEAD = 2  # batches of requests that a vLLM process has in hand


class Generation:
    """Shards of responses by one generator. requests: those of each shard."""

    def __init__(
        self,
        generator: Generator,
        requests: Sequence[Sequence[Request]],
        sampling: Sampling,
        holder: Holder,
        store: Store,
    ) -> None:
        self._generator, self._requests, self._sampling = generator, requests, sampling
        self._holder, self._store = holder, store
        self._held: Held | None = None

    @property
    def engine(self) -> Engine:
        """Return the engine, started when it is first needed."""
        self._held = self._holder.generator(
            self._generator, lambda wanted: reference_of(wanted, self._holder, self._store)
        )
        return self._held.engine

    @property
    def gap(self) -> EngineGap | None:
        """Return how far the engine is from the embedded one, where that was measured."""
        return None if self._held is None else self._held.gap

    def ensure(
        self,
        kind: str,
        inputs: Sequence[dict[str, Any]],
        make: Callable[[int], Make],
        *,
        together: bool = False,
    ) -> tuple[Made, ...]:
        """Return the artifacts of all shards, in order.

        make: what makes the artifact of a shard. together: claim all of them at once.
        """
        ahead = len(inputs) if together else self._ahead()
        made: dict[int, Made] = {}
        claimed: dict[int, Pending] = {}
        looked = 0
        try:
            for shard in range(len(inputs)):
                while looked < len(inputs) and (looked <= shard or len(claimed) < ahead):
                    got = self._store.begin(kind, inputs[looked], wait=False)
                    if isinstance(got, Artifact):
                        made[looked] = Made(got, fresh=False)
                    elif got is not None:
                        claimed[looked] = got
                        self.engine.prefetch(self._requests[looked], self._sampling)
                    looked += 1
                if shard in claimed:
                    made[shard] = Made(*claimed[shard].make(make(shard)))
                    del claimed[shard]
        finally:
            for pending in claimed.values():
                pending.release()
            if self._held is not None:
                for shard in claimed:
                    # an engine that has failed has nothing to drop; its own error passes
                    with suppress(TipError):
                        self._held.engine.abort(self._requests[shard], self._sampling)
        for shard in range(len(inputs)):
            if shard not in made:  # somebody else was at it
                made[shard] = Made(*self._store.ensure(kind, inputs[shard], make(shard)))
        return tuple(made[shard] for shard in range(len(inputs)))

    def _ahead(self) -> int:
        """Return how many shards are claimed at once."""
        if isinstance(self._generator, Embedded):
            return 1
        responses = max(map(len, self._requests))
        return 1 + -(-BATCHES_AHEAD * self._generator.spec.rows // responses)
