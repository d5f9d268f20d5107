"""What the store and the rules hold, printed for people."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from ...stages.select.rulebook import GROUPS, builtin_rules
from ...stages.select.settings import SelectSettings
from ...storage.errors import ConfigError, InputError, StoreError, is_panic
from ...storage.files import user_path
from ...storage.queries import ask
from ...storage.runs import RunFolder, record_of
from ...storage.store.places import check_kind
from ...storage.store.store import Artifact, Store
from ...storage.visible import visible
from .cells import count, number, table

_FIRST_DAY, _LAST_DAY = ((d - date(1970, 1, 1)).days for d in (date.min, date.max))
_WIDE_TEXT = 60  # characters of a cell before it is cut


def print_rules() -> None:
    """Print the built-in rules by group: name, budget, what each needs, reads and ranks by."""
    headings = ("rule", "budget", "needs", "ranks tokens by", "source")
    shown = table(headings, left=headings)
    shown.columns[0].no_wrap = True
    rules = sorted(builtin_rules().values(), key=lambda rule: (GROUPS.index(rule.group), rule.name))
    for before, rule in zip([None, *rules], rules, strict=False):
        if before is None or before.group != rule.group:
            shown.add_section()
            shown.add_row(f"{rule.group}:")
        budget = "its own" if rule.keep is not None else "keep"
        drawn = ", drawn" if rule.draw == "sample" else ""
        needs, source = rule.needs + ("*" if rule.reads_sampled else ""), rule.source.split(" (")[0]
        loss = f" Loss: {', '.join(rule.losses)}." if rule.losses else ""
        shown.add_row(rule.name, budget + drawn, needs, rule.title + loss, source)
    Console().print(shown)
    print(
        "budget: `select.keep` or `select.count`, or the rule's own; drawn: by chance, without\n"
        "replacement. "
        "needs: whose pass over the rollouts the ranking costs (training needs the teacher's).\n"
        "*: it reads the sampled token itself; what train.tail = 'residual' gets right in the\n"
        "mean is then the mean over the tokens that it keeps (docs/METHOD.md)."
    )


def print_query(
    query: str,
    name: str,
    numbers: list[int] | None,
    runs: str,
    output: Path | None,
    seconds: float | None = None,
) -> None:
    """Run one SELECT over the tables of a run and print or write its result.

    After `seconds` (default: what a round's selection may take) it is broken off.
    """
    run = RunFolder(runs, name)
    root = record_of(run).config.get("store")
    if not isinstance(root, str):
        raise StoreError(f"{run.config_path}: damaged (it names no store); restore or delete it")
    store = existing_store(root)
    tokens, rollouts = {}, {}
    for place, pointers in run.rounds():
        if pointers.tokens and (numbers is None or place in numbers):
            tokens[place] = _paths(store, "tokens", pointers.tokens)
            rollouts[place] = _paths(store, "rollouts", pointers.of("rollouts"))
    if not tokens:
        raise ConfigError(f"run {name} has no scored round {numbers or ''}; play it first")
    answer = ask(query, tokens, rollouts, seconds=seconds or SelectSettings().timeout_seconds)
    with _polars():
        _refuse_dates(answer)
        frame = pl.DataFrame(answer)
        if output is None:
            lines = "ASCII_FULL" if Console().options.ascii_only else "UTF8_FULL"
            with pl.Config(
                tbl_rows=40, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_formatting=lines
            ):
                print(visible(str(frame)))
        else:
            _write(frame, output)


def _write(frame: pl.DataFrame, output: Path) -> None:
    writers = {".parquet": frame.write_parquet, ".csv": frame.write_csv}
    if output.suffix not in writers:
        raise ConfigError(f"--output {output}: expected a name ending in .parquet or .csv")
    try:
        writers[output.suffix](output)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written ({error})") from error


@contextmanager
def _polars() -> Iterator[None]:
    """Turn what polars says of a type of DuckDB's that it cannot show or write into one line."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"SQL: the answer cannot be shown or written ({reason}); cast such columns to VARCHAR"
        ) from error


def _refuse_dates(answer: pa.Table) -> None:
    """Raise `InputError` for dates that polars cannot show: it would end in a panic."""
    for field, column in zip(answer.schema, answer.columns, strict=True):
        if not pa.types.is_date32(field.type) and not pa.types.is_timestamp(field.type):
            continue
        days = pc.call_function("min_max", [column.cast(pa.date32(), safe=False)])
        ends = [end.value for end in days.values()]
        if any(end is not None and not _FIRST_DAY <= end <= _LAST_DAY for end in ends):
            raise InputError(
                f"SQL: column {field.name!r} holds a date outside of the years 1 to 9999; cast it "
                "to VARCHAR"
            )


def print_artifacts(root: str, kind: str | None) -> None:
    """Print a line an artifact; raise `StoreError` when a manifest is damaged."""
    store, damaged = existing_store(root), []
    try:
        _ = kind if kind is None else check_kind(kind)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    shown = table(("kind", "key", "bytes", "rows", "made from"), left=("kind", "key", "made from"))
    for artifact in store.list(kind, damaged):
        size, rows = count(artifact.bytes), count(artifact.rows)
        shown.add_row(artifact.kind, artifact.key, size, rows, _about(artifact))
    Console().print(shown)
    refuse_damage(root, damaged)


def print_sizes(root: str) -> None:
    """Print what each kind takes, and the bytes a row; raise `StoreError` for damaged manifests."""
    store, damaged = existing_store(root), []
    sizes = store.sizes(damaged)
    shown = table(("kind", "artifacts", "bytes", "rows", "bytes a row"), left=("kind",))
    for kind, size in sorted(sizes.items()):
        each = number(size.bytes / size.rows, 1) if size.rows else ""
        shown.add_row(kind, count(size.artifacts), count(size.bytes), count(size.rows), each)
    artifacts, total = (sum(getattr(s, n) for s in sizes.values()) for n in ("artifacts", "bytes"))
    shown.add_row("all", count(artifacts), count(total), "", "")
    Console().print(shown)
    refuse_damage(root, damaged)


def refuse_damage(root: str, damaged: Sequence[str], later: Sequence[Artifact] = ()) -> None:
    """Print what is damaged and what was made of it, and raise `StoreError` where anything is."""
    for text in damaged:
        print(visible(text))
    for artifact in later:
        print(f"made from what is damaged: {artifact.kind} {artifact.key}")
    if damaged:
        made = f" and {len(later)} made from what is" if later else ""
        raise StoreError(
            f"{root}: {len(damaged)} damaged{made}, listed above; remove their folders in the "
            "store and run again: they are made anew"
        )


def sweep_store(root: str, hours: float) -> None:
    """Remove unfinished work of dead processes."""
    removed = existing_store(root, write=True).sweep(hours * 3600)
    print(f"removed {len(removed)} unfinished drafts")


def existing_store(root: str, *, write: bool = False) -> Store:
    """Open a store to look at it; one that is not there is named, not made."""
    if "://" not in root and not user_path(root).is_dir():
        raise StoreError(f"{root}: no such store; name one with --store (runs make theirs)")
    return Store(root, write=write)


def _paths(store: Store, kind: str, keys: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for key in keys:
        artifact = store.find(kind, key)
        if artifact is None:
            raise StoreError(f"{store}: {kind} {key} is not there any more; run `tip run` again")
        found.append(store.path(artifact, kind))
    return found


def _about(artifact: Artifact) -> str:
    names = ("student", "teacher", "model", "rule", "start", "mode", "temperature", "loss", "seed")
    picked: dict[str, Any] = {k: artifact.inputs[k] for k in names if k in artifact.inputs}
    text = " ".join(f"{k}={_short(v)}" for k, v in picked.items())
    return text if len(text) <= _WIDE_TEXT else text[: _WIDE_TEXT - 3] + "..."


def _short(value: Any) -> str:
    text = value[0] if isinstance(value, list) and value else value
    return str(text)[:12]
