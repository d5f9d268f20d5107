"""Rows of a user's file or data set: what prompts and problems are made from.

Every row knows its place, so that a later complaint can name the line. What cannot be used is
refused here, before a model is loaded.
"""

import codecs
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import InputError, is_panic
from ..files import user_path
from .hub import parquet_files

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".jsonl", ".parquet", ".csv")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = "a .jsonl, .parquet or .csv file, or a Hugging Face data set name such as owner/name"


@dataclass(frozen=True)
class Row:
    """One row: its number (from 1), its columns, and the file or data set it stands in.

    The number counts lines in a .jsonl file, blank ones included, and rows anywhere else.
    """

    number: int
    fields: Mapping[str, Any]
    source: str

    @property
    def place(self) -> str:
        """Where the row stands, for an error message."""
        word = "line" if _suffix(self.source) == ".jsonl" else "row"
        return f"{self.source}, {word} {self.number}"


def read_rows(
    source: str,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    needed: Collection[str],
    section: str = "prompts",
) -> list[Row]:
    """Return the rows of a source in its order, at most `limit`.

    Values of a .csv file are text as written: `07` stays `07`. A .parquet file yields only the
    `needed` columns. `section` names the config section of the source in errors.
    Raises `InputError` if the source is missing, malformed or empty, lacks a needed column, or if
    a needed value is null or neither text nor a number.
    """
    try:
        rows = list(islice(_rows(source, subset, split, limit, needed, section), limit))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error})") from error
    if not rows:
        raise InputError(f"{source} holds no row: expected one prompt a row")
    return rows


def unused(source: str, subset: str | None, split: str) -> list[str]:
    """Return a note where a file is asked for a part that only data sets of the hub have.

    No error: a config of such a data set serves a copy of it, too.
    """
    asked = {"subset": subset, "split": None if split == "train" else split}
    named = [f"{name} = {value!r}" for name, value in asked.items() if value is not None]
    if not named or _suffix(source) not in _SUFFIXES:
        return []
    return [f"a file is read whole: {' and '.join(named)} would be that of a data set on the hub"]


def _rows(
    source: str,
    subset: str | None,
    split: str,
    limit: int | None,
    needed: Collection[str],
    section: str,
) -> Iterator[Row]:
    path = user_path(source)
    suffix = _suffix(source)
    if suffix in _SUFFIXES:
        if not path.is_file():
            raise InputError(f"{source} does not exist or is no file: mend {section}.source")
        if suffix == ".jsonl":
            return _checked(_jsonl(path, source, needed), needed)
        if suffix == ".csv":
            return _checked(_csv(path, source, limit, needed), needed)
        return _checked(_parquet([path], source, limit, needed), needed)
    if path.exists() or not _HUB_NAME.fullmatch(source):
        raise InputError(f"{section}.source = {source!r} is of no known kind: expected {_KINDS}")
    files = parquet_files(source, subset, split, section=section)
    return _checked(_parquet(files, source, limit, needed), needed)


def _jsonl(path: Path, source: str, needed: Collection[str]) -> Iterator[Row]:
    # Not by polars: its error for a malformed line names no line, and it forces one type upon a
    # column whose answers are numbers in some rows and text in others.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{source}, line {number}"
            try:
                text = line.removeprefix(codecs.BOM_UTF8).rstrip()
                fields = json.loads(text, object_pairs_hook=_object)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{place}: not valid JSON: {error.msg} at character {error.colno}; expected "
                    "one object a line"
                ) from None
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8 at byte {error.start + 1}") from None
            except (ValueError, RecursionError) as error:  # thousands of digits or brackets
                raise InputError(f"{place}: not usable JSON: {_first_line(error)}") from None
            if not isinstance(fields, dict):
                raise InputError(f"{place}: a {_kind(fields)}; expected one object a line")
            if isinstance(fields, _Doubled):
                _refuse_doubled(fields.names, needed, place)
            yield Row(number, fields, source)


def _csv(path: Path, source: str, limit: int | None, needed: Collection[str]) -> Iterator[Row]:
    try:
        frame = pl.read_csv(path, infer_schema=False, n_rows=limit, glob=False)
        # as the file has it: of a doubled name polars makes two
        head = pl.read_csv(path, infer_schema=False, n_rows=1, glob=False, has_header=False).row(0)
    except pl.exceptions.NoDataError:
        return iter(())
    except BaseException as error:
        raise _unusable(source, "CSV", error) from error
    _refuse_doubled(head, needed, source)
    _require(frame.columns, needed, source)
    return _numbered(frame, source)


def _parquet(
    paths: list[Path], source: str, limit: int | None, needed: Collection[str]
) -> Iterator[Row]:
    try:
        scan = pl.scan_parquet(paths, n_rows=limit, glob=False)
        names = scan.collect_schema().names()
        _require(names, needed, source)
        return _numbered(scan.select(sorted(set(needed))).collect(), source)
    except InputError:
        raise
    except BaseException as error:
        raise _unusable(source, "Parquet", error) from error


def _unusable(source: str, kind: str, error: BaseException) -> BaseException:
    """Return the error of a file that polars cannot read, or what has nothing to do with it."""
    if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
        return error
    return InputError(f"{source} is no usable {kind}: {_first_line(error)}")


def _numbered(frame: pl.DataFrame, source: str) -> Iterator[Row]:
    for number, fields in enumerate(frame.iter_rows(named=True), start=1):
        yield Row(number, fields, source)


def _checked(rows: Iterator[Row], needed: Collection[str]) -> Iterator[Row]:
    """Pass rows on whose needed columns hold text or a number."""
    for row in rows:
        _require(row.fields, needed, row.place)
        for name in needed:
            value = row.fields[name]
            if not isinstance(value, (str, int, float, Decimal)) or isinstance(value, bool):
                raise InputError(
                    f"{row.place}: column {name!r} is a {_kind(value)}; expected text or a number"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{row.place}: column {name!r} is {value}; expected a number")
            if isinstance(value, str) and _SURROGATE.search(value):
                raise InputError(
                    f"{row.place}: column {name!r} holds half of a character (a lone surrogate, "
                    "such as \\ud800); expected whole ones"
                )
        yield row


class _Doubled(dict[str, Any]):
    """A JSON object in which a name comes twice: `json` alone would drop the first."""

    names: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        fields = _Doubled(fields)
        fields.names = [name for name, _ in pairs]
    return fields


def _refuse_doubled(names: Sequence[str], needed: Collection[str], place: str) -> None:
    """Raise `InputError` where a needed name stands for two columns: one would be dropped."""
    for name in needed:
        if names.count(name) > 1:
            raise InputError(f"{place}: there are two columns {name!r}; name each column once")


def _require(columns: Collection[str], needed: Collection[str], place: str) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(
            f"{place}: no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}"
        )


def _suffix(source: str) -> str:
    return Path(source).suffix.lower()


def _kind(value: object) -> str:
    """Return what a JSON or Parquet value is, in the file's own words."""
    names = {dict: "object", list: "list", str: "string", bool: "truth value", bytes: "blob"}
    names |= dict.fromkeys((int, float), "number")
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
