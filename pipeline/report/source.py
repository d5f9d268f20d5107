"""A run that is looked at: its session, its pointers, its metrics, and paths of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...storage.errors import ConfigError, StoreError, TipError
from ...storage.runs import RoundPointers, RunFolder, RunRecord, record_of
from ..compare.choices import scored_round
from ..compare.on_run import looked_at
from ..compare.scored import ScoredRound
from ..config.run import RunConfig
from ..metrics import ByRound, by_round
from ..progress import Reporter
from ..rounds.replay import stored
from ..session import Session
from ..show.listing import existing_store

Paths = Mapping[int, Sequence[Path]]


@dataclass(frozen=True)
class Source:
    """A run that is looked at; nothing is written, to its folder or to its store."""

    record: RunRecord
    session: Session
    metrics: ByRound
    pointers: Mapping[int, RoundPointers]

    @property
    def config(self) -> RunConfig:
        """Return the run's resolved config."""
        return self.session.config

    @property
    def scored(self) -> list[int]:
        """Return the rounds whose tokens are scored, in order."""
        return [number for number, of in self.pointers.items() if of.tokens]

    @property
    def trained(self) -> int:
        """Return how many rounds are trained."""
        return sum(of.checkpoint is not None for of in self.pointers.values())

    def paths(self, kind: str, numbers: Sequence[int]) -> Paths:
        """Return the parts of a kind of table by round, of rounds that have it."""
        session = self.session
        found = {n: stored(session, kind, self.pointers[n].of(kind)) for n in numbers}
        return {n: [session.store.path(a, kind) for a in of] for n, of in found.items() if of}

    def scored_round(self, number: int) -> ScoredRound:
        """Return a round as rules are asked about it."""
        return scored_round(self.session, number)

    @cached_property
    def tokenizer(self) -> Any:
        """Return the student's tokenizer, None where its folder is not here."""
        try:
            return self.session.inputs.student_card.tokenizer
        except TipError as error:
            self.session.reporter.say(
                f"note: the student's tokenizer cannot be read, so tokens are shown by their ids, "
                f"and no rule is asked: {error}"
            )
            return None


def open_source(name: str, runs: str, reporter: Reporter) -> Source:
    """Return a run to look at. Raises `TipError` where it, its store or tables are not there."""
    run = RunFolder(runs, name)
    record = record_of(run)
    root = record.config.get("store")
    if not isinstance(root, str):
        raise StoreError(f"{run.config_path}: damaged (it names no store); restore or delete it")
    existing_store(root)
    session = looked_at(name, runs, reporter)
    metrics = by_round(run.metrics())
    if not metrics:
        raise ConfigError(
            f"run {name} in {run.path.parent} has finished no stage yet: there is nothing to show "
            f"before its first rollouts are made; `tip status --runs {runs}` lists all runs"
        )
    return Source(record, session, metrics, dict(run.rounds()))
