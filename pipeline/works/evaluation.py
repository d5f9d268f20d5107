"""Answers to problems with known answers: shards of 32 problems, an artifact each.

A shard is committed as soon as its answers are judged, so a kill costs what was being generated.
Answers of the embedded engine come in batches that span shards: a group of shards is one work,
generated whole (whatever of it is there already), so that a batch is the same at every start.
"""

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ...stages.engines.protocols import Sampling, Spared, Tick
from ...stages.engines.requests import requests_of
from ...stages.evaluate.evaluate import evaluate, evaluate_inputs
from ...stages.evaluate.settings import EvaluateSettings
from ...stages.holder import Embedded, Generator, Holder
from ...stages.prompts.render import Prompt
from ...storage.columns import EVALUATION
from ...storage.facts import EvaluationFacts
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Draft, Make, Store
from .ahead import Generation
from .work import Made, Work, all_found, cut


@dataclass(frozen=True)
class EvaluateWork:
    """Shards of an evaluation of one model."""

    generator: Generator
    shards: tuple[tuple[Prompt, ...], ...]
    settings: EvaluateSettings
    sampling: Sampling
    made_by: str | None
    unit = "tokens"

    @property
    def size(self) -> int:
        """Return the tokens of all answers, were each as long as it may be."""
        return sum(map(len, self.shards)) * self.settings.samples * self.settings.max_tokens

    def inputs(self, problems: tuple[Prompt, ...]) -> dict[str, Any]:
        """Return what makes the answers to some problems: the value behind their key."""
        weights = self.generator.weights
        return evaluate_inputs(
            weights.fingerprint,
            weights.compute(self.settings.engine),
            problems,
            self.settings,
            self.sampling,
        )

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the shards where all of them are there."""
        keys = [artifact_key("evaluation", self.inputs(shard)) for shard in self.shards]
        return all_found([store.find("evaluation", key) for key in keys])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Generate and judge what is missing."""
        requests = [requests_of(shard, self.settings.samples) for shard in self.shards]
        generation = Generation(self.generator, requests, self.sampling, holder, store)
        together = isinstance(self.generator, Embedded)
        whole: list[pa.Table] = []

        def answers(problems: tuple[Prompt, ...]) -> pa.Table:
            return evaluate(
                generation.engine,
                self.generator.weights.card.tokenizer,
                problems,
                self.settings,
                self.sampling,
                holder.verifier(self.settings.verifier, self.settings.timeout),
                tick,
            )

        def table(shard: int) -> pa.Table:
            if not together:
                return answers(self.shards[shard])
            if not whole:
                whole.append(answers(tuple(p for problems in self.shards for p in problems)))
            return whole[0].slice(sum(map(len, requests[:shard])), len(requests[shard]))

        def make(shard: int) -> Make:
            def write(draft: Draft) -> dict[str, Any]:
                draft.table("evaluation", table(shard), EVALUATION)
                facts = EvaluationFacts(
                    problems=len(self.shards[shard]),
                    made_by=self.made_by,
                    engine_gap=generation.gap,
                )
                return facts.dump()

            return write

        inputs = [self.inputs(problems) for problems in self.shards]
        made = generation.ensure("evaluation", inputs, make, together=together)
        if not whole:
            for asked, each in zip(requests, made, strict=True):
                if not each.fresh:
                    tick(Spared(len(asked) * self.settings.max_tokens))
        return made

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        if isinstance(self.generator, Embedded):  # its batch spans the shards, at every start
            return (self,)
        keys = [artifact_key("evaluation", self.inputs(shard)) for shard in self.shards]
        there = [store.find("evaluation", key) is not None for key in keys]
        return tuple(replace(self, shards=part) for part in cut(self.shards, there, most))
