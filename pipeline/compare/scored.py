"""A scored round of a comparison: its tables, and what any rule would choose from them.

The token table is the same for every rule, so one round of one run tells how rules differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from ...stages.select.select import select
from ...stages.select.settings import SelectSettings
from ...storage.tables import read_table
from .rows import Budget, settings_of


@dataclass(frozen=True)
class ScoredRound:
    """The tables of a round, a file a shard, and how its tokens are chosen.

    settings: how tokens are chosen beside rule and budget (scope, cuts, parameters). seed: of ties
    and draws. vocabulary: V, for entropies as shares of ln V. threads: 0 takes all cores.
    """

    rollouts: tuple[Path, ...]
    teacher: tuple[Path, ...]
    tokens: tuple[Path, ...]
    settings: SelectSettings
    seed: int
    vocabulary: int
    threads: int = 0

    def table(self) -> pl.DataFrame:
        """Return the token table, a row a response token."""
        return pl.DataFrame(read_table(self.tokens))

    def chosen(self, rule: str, budget: Budget) -> pl.DataFrame:
        """Return what a rule selects: rollout, position, type, importance."""
        return pl.DataFrame(self.selection(settings_of(self.settings, rule, budget)))

    def ranked(self, rule: str) -> pl.DataFrame:
        """Return the same of all tokens that a rule can keep, whatever the condition says."""
        settings = settings_of(self.settings, rule, 1.0).model_copy(update={"where": None})
        return pl.DataFrame(self.selection(settings))

    def selection(self, settings: SelectSettings) -> pa.Table:
        """Return the `selection` table that some settings give."""
        table, _ = select(
            self.tokens,
            self.rollouts,
            settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
            threads=self.threads,
        )
        return table

    def importances(self, rules: Sequence[str]) -> pl.DataFrame:
        """Return rollout, position and a column of importance a rule, of all trainable tokens.

        A token that a rule cannot keep is less important than all others.
        """
        frame = self.table().filter("trainable").select("rollout", "position")
        for rule in rules:
            column = self.ranked(rule).select(
                "rollout", "position", pl.col("importance").alias(rule)
            )
            frame = frame.join(column, on=["rollout", "position"], how="left")
        low = [pl.col(rule).fill_null(pl.col(rule).min() - 1).fill_null(0.0) for rule in rules]
        return frame.with_columns(low)
