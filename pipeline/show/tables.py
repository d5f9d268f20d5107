"""The tables of a run, opened for questions: views of DuckDB over the parts that its rounds made.

What a view holds beside the columns of `storage/columns.py`: `round`; of a token its `type` and its
`text`; of a rollout its `prompt` and `response` in words. Parts are hashed at their first use, so
only those that a question names are touched.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import sqltypes
from duckdb.func import PythonUDFType

from ...stages.models.card import load_tokenizer
from ...stages.select.types import create_types
from ...storage import columns
from ...storage.errors import ConfigError, StoreError, TipError
from ...storage.facts import SelectionFacts
from ...storage.queries import add_view, locked_connection
from ...storage.runs import RoundPointers, RunFolder, record_of
from ...storage.store.artifacts import Artifact
from ...storage.store.store import Store
from ..config.toml import config_of
from ..inputs import Inputs
from ..metrics import EvaluateMetrics, by_round
from ..progress import Reporter
from .stores import existing_store
from .texts import Texts

_KINDS: Mapping[str, Sequence[columns.Column]] = {
    "tokens": columns.TOKENS,
    "rollouts": columns.ROLLOUTS,
    "selection": columns.SELECTION,
    "teacher": columns.TEACHER,
    "evaluation": columns.EVALUATION,
}
_IDS = duckdb.list_type(sqltypes.INTEGER)
_TEXTS = {"tokens": "token_text(token) AS text"}
_TEXTS["rollouts"] = "text_of(prompt_ids) AS prompt, text_of(response_ids) AS response"


@dataclass(frozen=True)
class RunTables:
    """A run's tables. numbers: of the rounds that are asked, None for all."""

    run: RunFolder
    numbers: tuple[int, ...] | None = None

    @cached_property
    def store(self) -> Store:
        """Return the store that the run names. Raises `StoreError` where it is not there."""
        root = record_of(self.run).config.get("store")
        if not isinstance(root, str):
            raise StoreError(
                f"{self.run.config_path}: damaged (it names no store); restore or delete it"
            )
        return existing_store(root)

    @cached_property
    def tokenizer(self) -> Any:
        """Return the student's tokenizer: of the first student, or of what was trained of it."""
        config = config_of(self.run)
        try:
            return Inputs(config, Reporter(quiet=True), look=True).student_card.tokenizer
        except TipError:
            for _, pointers in self.run.rounds():
                found = self._found("checkpoint", pointers.of("checkpoint"))
                if found:
                    folder = self.store.folder(found[0])
                    return load_tokenizer(folder, config.student.trust_remote_code)
            raise

    @cached_property
    def texts(self) -> Texts:
        """Return what gives tokens their texts."""
        return Texts(self.tokenizer)

    @contextmanager
    def opened(
        self, kinds: Sequence[str] = tuple(_KINDS), seconds: float | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a locked connection with a view of each kind.

        seconds: after which a question is broken off. Raises `ConfigError` where nothing was scored
        yet, `StoreError` for parts that are gone.
        """
        record_of(self.run)
        rounds = self._rounds(kinds)
        parts = {kind: self._parts(kind, rounds) for kind in kinds}
        paths = chain.from_iterable(chain.from_iterable(of.values()) for of in parts.values())
        with locked_connection(paths, seconds=seconds) as connection:
            create_types(connection)
            for name, make, taken in (
                ("token_text", self._token_texts, sqltypes.INTEGER),
                ("text_of", self._texts, _IDS),
            ):
                connection.create_function(
                    name, make, [taken], sqltypes.VARCHAR, type=PythonUDFType.ARROW
                )
            for kind, of_rounds in parts.items():
                self._view(connection, kind, of_rounds, rounds)
            yield connection

    def _rounds(self, kinds: Sequence[str]) -> dict[int, RoundPointers]:
        asked = self.numbers
        found = {n: p for n, p in self.run.rounds() if asked is None or n in asked}
        scored = any(pointers.tokens for pointers in found.values())
        if not scored and set(kinds) != {"evaluation"}:
            which = "scored round yet" if asked is None else f"scored round {list(asked)}"
            raise ConfigError(f"run {self.run.name} has no {which}; play it first")
        return found

    def _parts(self, kind: str, rounds: Mapping[int, RoundPointers]) -> dict[int, list[Path]]:
        if kind == "evaluation":
            keys = {n: line.answers for n, line in self._evaluations().items()}
            part = "evaluation"
        else:
            keys = {n: pointers.of(kind) for n, pointers in rounds.items()}
            part = kind
        return {
            number: [self.store.path(a, part) for a in self._there(kind, of_round)]
            for number, of_round in keys.items()
            if of_round
        }

    def _evaluations(self) -> dict[int, EvaluateMetrics]:
        lines = {n: of.evaluate for n, of in by_round(self.run.metrics()).items()}
        asked = {
            n: line
            for n, line in lines.items()
            if line is not None and (self.numbers is None or n in self.numbers)
        }
        if asked and not any(line.answers for line in asked.values()):
            raise ConfigError(
                f"run {self.run.name} was asked by an older version, which did not note where its "
                "answers are: `tip run` with its config finds and notes them"
            )
        return asked

    def _there(self, kind: str, keys: Sequence[str]) -> list[Artifact]:
        found = self._found(kind, keys)
        if len(found) < len(keys):
            there = {artifact.key for artifact in found}
            gone = next(key for key in keys if key not in there)
            raise StoreError(
                f"{self.store}: {kind} {gone} is not there any more; run `tip run` again"
            )
        return found

    def _found(self, kind: str, keys: Sequence[str]) -> list[Artifact]:
        found = (self.store.find(kind, key) for key in keys)
        return [artifact for artifact in found if artifact is not None]

    def _view(
        self,
        connection: duckdb.DuckDBPyConnection,
        kind: str,
        parts: dict[int, list[Path]],
        rounds: Mapping[int, RoundPointers],
    ) -> None:
        narrow = columns.narrow(_KINDS[kind]) if kind == "rollouts" else "*"
        seen = ", ".join(filter(None, (narrow, _TEXTS.get(kind))))
        if not parts:  # nothing of the kind was made yet
            empty = columns.schema(_KINDS[kind]).empty_table()
            connection.register(
                f"no_{kind}", empty.add_column(0, "round", pa.array([], pa.int32()))
            )
            connection.execute(f"CREATE VIEW {kind} AS SELECT round, {seen} FROM no_{kind}")
        elif kind == "tokens":
            add_view(
                connection,
                kind,
                parts,
                {n: f"{seen}, {self._type(rounds[n])} AS type" for n in parts},
            )
        else:
            add_view(connection, kind, parts, seen)

    def _type(self, pointers: RoundPointers) -> str:
        """Return the type of a round's tokens in SQL: null where nothing was selected yet."""
        found = self._found("selection", pointers.of("selection"))
        if not found:
            return "NULL::quadrant"
        cuts = SelectionFacts.of(found[0]).cuts
        return (
            f"quadrant_of(student_entropy, reverse_kl, {cuts['entropy_cut']!r}::DOUBLE, "
            f"{cuts['divergence_cut']!r}::DOUBLE)"
        )

    def _texts(self, ids: pa.ChunkedArray) -> pa.Array:
        """Return the words of lists of ids, as DuckDB asks for them."""
        decode: Callable[[list[int]], str] = self.tokenizer.decode
        return pa.array([decode(each) for each in ids.to_pylist()], pa.string())

    def _token_texts(self, tokens: pa.ChunkedArray) -> pa.Array:
        """Return the texts of single tokens, as DuckDB asks for them."""
        return pa.array([self.texts.of(token) for token in tokens.to_pylist()], pa.string())


def named_in(query: str) -> list[str]:
    """Return the kinds of tables that a question may read: whose names stand in it, else tokens."""
    words = {word.lower() for word in re.findall(r"\w+", query)}
    return [kind for kind in _KINDS if kind in words] or ["tokens"]
