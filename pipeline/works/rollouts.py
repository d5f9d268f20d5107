"""Rollouts of some prompts, a shard an artifact."""

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ...stages.engines.protocols import Sampling, Spared, Tick
from ...stages.engines.requests import requests_of
from ...stages.holder import Embedded, Generator, Holder, InVllm
from ...stages.prompts.render import Prompt
from ...stages.rollout.rollout import roll_out, rollout_inputs
from ...stages.rollout.settings import RolloutSettings
from ...storage.columns import ROLLOUTS
from ...storage.facts import EngineGap, RolloutFacts
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Draft, Make, Store
from .ahead import Generation
from .work import Made, Work, all_found, cut


@dataclass(frozen=True)
class RolloutWork:
    """Shards of rollouts by one student.

    shards: the prompts of each. Where batches of the embedded engine span them they are generated
    together, whatever of them is there already, so that a batch is the same at every start.
    """

    generator: Generator
    shards: tuple[tuple[Prompt, ...], ...]
    settings: RolloutSettings
    sampling: Sampling
    made_by: str | None
    unit = "tokens"

    @property
    def size(self) -> int:
        """Return the tokens of all responses, were each as long as it may be."""
        return sum(map(len, self.shards)) * self.settings.samples * self.settings.max_tokens

    def inputs(self, shard: int) -> dict[str, Any]:
        """Return what makes a shard: the value behind its key."""
        weights = self.generator.weights
        return rollout_inputs(
            weights.fingerprint,
            weights.compute(self.settings.engine),
            self.shards[shard],
            self.settings,
            self.sampling,
        )

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the shards where all of them are there."""
        keys = [artifact_key("rollouts", self.inputs(n)) for n in range(len(self.shards))]
        return all_found([store.find("rollouts", key) for key in keys])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Generate the shards that are missing."""
        requests = [requests_of(shard, self.settings.samples) for shard in self.shards]
        generation = Generation(self.generator, requests, self.sampling, holder, store)
        together = isinstance(self.generator, Embedded) and self.generator.spans
        whole: list[pa.Table] = []

        def rolled_out(prompts: tuple[Prompt, ...]) -> pa.Table:
            return roll_out(generation.engine, prompts, self.settings.samples, self.sampling, tick)

        def table(shard: int) -> pa.Table:
            if not together:
                return rolled_out(self.shards[shard])
            if not whole:
                whole.append(rolled_out(tuple(p for prompts in self.shards for p in prompts)))
            start = sum(map(len, requests[:shard]))
            return whole[0].take(pa.array(range(start, start + len(requests[shard]))))

        def make(shard: int) -> Make:
            def write(draft: Draft) -> dict[str, Any]:
                rollouts = table(shard)
                draft.table("rollouts", rollouts, ROLLOUTS)
                return self._facts(rollouts, generation.gap).dump()

            return write

        inputs = [self.inputs(shard) for shard in range(len(self.shards))]
        made = generation.ensure("rollouts", inputs, make, together=together)
        if not whole:
            for asked, each in zip(requests, made, strict=True):
                if not each.fresh:
                    tick(Spared(len(asked) * self.settings.max_tokens))
        return made

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        if not isinstance(self.generator, InVllm):
            return (self,)
        keys = [artifact_key("rollouts", self.inputs(n)) for n in range(len(self.shards))]
        there = [store.find("rollouts", key) is not None for key in keys]
        return tuple(replace(self, shards=part) for part in cut(self.shards, there, most))

    def _facts(self, table: pa.Table, gap: EngineGap | None) -> RolloutFacts:
        return RolloutFacts(
            rollouts=table.num_rows,
            tokens=len(table["response_ids"].combine_chunks().values),
            truncated=table["stop_reason"].to_pylist().count("length"),
            made_by=self.made_by,
            engine_gap=gap,
        )
