"""A run to look at: its tables as frames, a rollout as text that shows itself.

Looking reads the run folder and the store, and changes nothing of them or of the process.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ...stages.select.settings import SelectSettings
from ...storage.errors import ConfigError
from ...storage.queries import ask
from ...storage.runs import RunFolder, record_of
from ..metrics import by_round
from ..show.tables import RunTables, named_in
from ..show.views import round_lines
from .plane import Plane, plane_of
from .rollout import Rollout, rollout_of


@dataclass(frozen=True)
class Run:
    """A run. folder: where it lies."""

    folder: RunFolder

    @property
    def name(self) -> str:
        """Return its name."""
        return self.folder.name

    @property
    def config(self) -> dict:
        """Return its resolved configuration, as plain values."""
        return record_of(self.folder).config

    @property
    def rounds(self) -> pl.DataFrame:
        """Return a line a round: accuracy, held-out KL, loss, tokens, seconds."""
        return pl.DataFrame(round_lines(by_round(self.folder.metrics())), infer_schema_length=None)

    @property
    def metrics(self) -> pl.DataFrame:
        """Return every line of its metrics, with a column for each number and word of some line.

        What is itself a table in a line (losses by step, types) is left out.
        """
        lines = [
            {name: value for name, value in line.items() if not isinstance(value, dict | list)}
            for line in self.folder.metrics()
        ]
        return pl.DataFrame(lines, infer_schema_length=None, strict=False)

    def sql(self, query: str, round: int | None = None) -> pl.DataFrame:
        """Return the answer to one SELECT over the run's tables, as `tip sql` gives it.

        round: only its tables; None: those of all. Raises `TipError` for what cannot be answered.
        """
        seconds = SelectSettings().timeout_seconds
        named = named_in(query)
        with self._tables(round).opened(named, seconds) as connection:
            return pl.DataFrame(ask(connection, query, table=named[0]))

    def tokens(self, round: int | None = None) -> pl.DataFrame:
        """Return the token table, a row a response token, with types and texts."""
        return self.sql("FROM tokens", round)

    def rollouts(self, round: int | None = None) -> pl.DataFrame:
        """Return the rollouts, with prompts and responses in words."""
        return self.sql("FROM rollouts", round)

    def selection(self, round: int | None = None) -> pl.DataFrame:
        """Return the tokens that were chosen, with weight and importance."""
        return self.sql("FROM selection", round)

    def teacher(self, round: int | None = None) -> pl.DataFrame:
        """Return the teacher's signals: of each token support ids, log-probs and tail."""
        return self.sql("FROM teacher", round)

    def evaluation(self, round: int | None = None) -> pl.DataFrame:
        """Return the answers to held-out problems, by the rounds trained before."""
        return self.sql("FROM evaluation", round)

    def rollout(self, number: int, round: int = 0) -> Rollout:
        """Return one rollout of a round, counted from 0; in a notebook it shows itself."""
        tables = self._tables(round)
        with tables.opened(("tokens", "rollouts", "selection")) as connection:
            return rollout_of(connection, tables.texts, self.name, round, number)

    def plane(self, round: int | None = None) -> Plane:
        """Return where tokens lie by student entropy and reverse KL; it shows itself as well."""
        with self._tables(round).opened(("tokens",)) as connection:
            return plane_of(connection, self.name, round)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {str(self.folder.path.parent)!r})"

    def _repr_html_(self) -> str:
        return self.rounds._repr_html_()

    def _tables(self, number: int | None) -> RunTables:
        return RunTables(self.folder, None if number is None else (number,))


def open_run(name: str, runs: str | Path = "runs") -> Run:
    """Return a run to look at. Raises `ConfigError` where there is none of this name."""
    if "/" in name:
        runs, name = Path(runs) / Path(name).parent, Path(name).name
        if not Path(runs).is_dir():
            raise ConfigError(f"{runs}: no such folder; give a run's name, and its folder as runs=")
    run = RunFolder(str(runs), name)
    record_of(run)
    return Run(run)
