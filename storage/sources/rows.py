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
from typing import TYPE_CHECKING, Any

from ..errors import InputError, is_panic
from ..files import user_path
from .hub import parquet_files

if TYPE_CHECKING:
    import polars as pl

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = (
    "a .jsonl, .json, .parquet, .csv or .txt file, or a Hugging Face data set name such as "
    "owner/name"
)


@dataclass(frozen=True)
class Row:
    """One row: its number (from 1), its columns, and the file or data set it stands in.

    The number counts lines in a .jsonl or .txt file, blank ones included, and rows anywhere else.
    """

    number: int
    fields: Mapping[str, Any]
    source: str

    @property
    def place(self) -> str:
        """Where the row stands, for an error message."""
        word = "line" if _suffix(self.source) in (".jsonl", ".txt") else "row"
        return f"{self.source}, {word} {self.number}"


def read_rows(
    source: str,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    needed: Collection[str],
    lists: Collection[str] = (),
    section: str = "prompts",
) -> list[Row]:
    """Return the rows of a source in its order, at most `limit`.

    Values of a .csv file are text as written: `07` stays `07`. A .parquet file yields only the
    `needed` columns. A .txt file has one column, `prompt`, a line a row. lists: of the needed
    columns those that hold lists. `section` names the config section of the source in errors.
    Raises `InputError` if the source is missing, malformed or empty, lacks a needed column, or if
    a needed value is null or neither text nor a number.
    """
    try:
        found = _rows(source, subset, split, limit, needed, section)
        rows = list(islice(_checked(found, needed, lists), limit))
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
        if suffix in (".csv", ".parquet"):
            read = _csv if suffix == ".csv" else _parquet
            return read(path, source, limit, needed)
        whole = {".jsonl": _jsonl, ".json": _json, ".txt": _txt}[suffix]
        return whole(path, source, needed)
    if path.exists() or not _HUB_NAME.fullmatch(source):
        raise InputError(f"{section}.source = {source!r} is of no known kind: expected {_KINDS}")
    files = parquet_files(source, subset, split, section=section)
    return _parquet(files, source, limit, needed)


def _jsonl(path: Path, source: str, needed: Collection[str]) -> Iterator[Row]:
    # Not by polars: its error for a malformed line names no line, and it forces one type upon a
    # column whose answers are numbers in some rows and text in others.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{source}, line {number}"
            fields = _parsed(line.rstrip(), place, "one object a line")
            yield Row(number, _fields(fields, needed, place, "one object a line"), source)


def _json(path: Path, source: str, needed: Collection[str]) -> Iterator[Row]:
    every = _parsed(path.read_bytes(), source, "a list of objects")
    if not isinstance(every, list):
        raise InputError(f"{source}: a {_kind(every)}; expected a list of objects")
    for number, each in enumerate(every, start=1):
        place = f"{source}, row {number}"
        yield Row(number, _fields(each, needed, place, "an object"), source)


def _txt(path: Path, source: str, needed: Collection[str]) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.removeprefix(codecs.BOM_UTF8).decode().strip()
            except UnicodeDecodeError as error:
                place = f"{source}, line {number}"
                raise InputError(f"{place}: not UTF-8 at byte {error.start + 1}") from None
            if text:
                yield Row(number, {"prompt": text}, source)


def _parsed(data: bytes, place: str, expected: str) -> Any:
    """Return what JSON says. Raises `InputError` with its place."""
    try:
        return json.loads(data.removeprefix(codecs.BOM_UTF8), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputError(
            f"{place}: not valid JSON: {error.msg} at {where}character {error.colno}; expected "
            f"{expected}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 at byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise InputError(f"{place}: not usable JSON: {_first_line(error)}") from None


def _fields(fields: Any, needed: Collection[str], place: str, expected: str) -> Mapping[str, Any]:
    if not isinstance(fields, dict):
        raise InputError(f"{place}: a {_kind(fields)}; expected {expected}")
    if isinstance(fields, _Doubled):
        _refuse_doubled(fields.names, needed, place)
    return fields


def _csv(path: Path, source: str, limit: int | None, needed: Collection[str]) -> Iterator[Row]:
    import polars as pl  # heavy, and JSON does without

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
    paths: Path | list[Path], source: str, limit: int | None, needed: Collection[str]
) -> Iterator[Row]:
    import polars as pl  # heavy

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
    import polars as pl  # heavy

    if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
        return error
    return InputError(f"{source} is no usable {kind}: {_first_line(error)}")


def _numbered(frame: "pl.DataFrame", source: str) -> Iterator[Row]:
    for number, fields in enumerate(frame.iter_rows(named=True), start=1):
        yield Row(number, fields, source)


def _checked(rows: Iterator[Row], needed: Collection[str], lists: Collection[str]) -> Iterator[Row]:
    """Pass rows on whose needed columns hold text or a number, or a list where one is needed."""
    for row in rows:
        _require(row.fields, needed, row.place)
        for name in needed:
            value = row.fields[name]
            if name in lists:
                if not isinstance(value, list):
                    raise InputError(
                        f"{row.place}: column {name!r} is a {_kind(value)}; expected a list"
                    )
                continue
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
