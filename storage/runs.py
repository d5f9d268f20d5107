"""A run's own folder: its record, pointers into the store, metrics and private states.

Layout, which only this module knows:

    <runs>/<name>/config.json            the record: what the run is
                  rounds/0000.json       which artifacts the round used and made
                  metrics.jsonl          a line a stage
                  states/<key>/          training states (private, the last rounds)
                  work/<key>/            snapshots inside a round
                  final                  link to the last student, or a file with its address
                  lock                   held by the process that plays the run

Deleting the folder loses no teacher score: those are in the store.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError, StoreError
from .files import is_finished, link, remove_unfinished, replacing, share, user_path
from .keys import key_of
from .lines import JsonLines
from .locks import HeldError, held

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBER = re.compile(r"[0-9]+")


class _Stored(BaseModel):
    """What lies in a JSON file; fields that this version does not know are kept.

    A seal goes with them, over the file's name and all that it says; older versions wrote none.
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file says, None where there is none."""
        try:
            data = path.read_bytes()
            stored = cls.model_validate_json(data)
            if "seal" not in (stored.model_extra or {}):
                return stored
            values = json.loads(data)
            if values.pop("seal") != _seal(path, values):
                raise _unreadable(path, "its seal does not fit what it says")
            return cls.model_validate(values)
        except StoreError:
            raise
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise _unreadable(path, reason) from error
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from error

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        try:
            values = self.dump()
            text = json.dumps(values | {"seal": _seal(path, values)}, indent=2)
            with replacing(path) as beside:
                beside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error

    def dump(self) -> dict[str, Any]:
        """Return all fields that have a value, those of other versions too."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)


class Branch(_Stored):
    """Where a branch began."""

    run: str
    """Its origin."""
    rounds: int
    """Rounds that it shares with it."""


class RunRecord(_Stored):
    """What a run is."""

    id: str | None = None
    """What tells this run from another of its name."""
    config: dict[str, Any]
    """The resolved configuration."""
    horizon_rounds: int | None = None
    """Rounds for which the learning rate's schedule was laid out at the first start."""
    content: dict[str, str] | None = None
    """Digests of what settings that are names or paths stand for."""
    branch: Branch | None = None


class RoundPointers(_Stored):
    """Which artifacts a round used and made: their keys."""

    student: str | None = None
    """Key of the training that made the student; the fingerprint of the first one."""
    rollouts: tuple[str, ...] | None = None
    teacher: tuple[str, ...] | None = None
    tokens: tuple[str, ...] | None = None
    selection: str | None = None
    checkpoint: str | None = None
    owes: str | None = None
    """Key of a training whose state was not on the disk yet when this was written."""

    def of(self, kind: str) -> tuple[str, ...]:
        """Return the keys of a kind, none where there are none yet."""
        keys = getattr(self, kind)
        return (keys,) if isinstance(keys, str) else keys or ()


class RunFolder:
    """The folder of one run; made when first written to."""

    def __init__(self, runs: str | Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name = {name!r}: expected letters, digits, '.', '_' or '-', starting with a "
                "letter or digit, at most 100 characters"
            )
        self.name = name
        self.path = user_path(runs) / name
        self._metrics = JsonLines(self.metrics_path)
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process alone, as everything that writes to it must.

        What killed processes left half-written is removed. May be nested. Raises `StoreError` where
        another process is at work in it.
        """
        if self._held:
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self.path))
            except HeldError as error:
                raise StoreError(
                    f"run {self.name} in {self.path.parent} is being played by {error.holder}: "
                    "wait until it ends, or give this run another name (--name); what both need "
                    "is made once, in the store"
                ) from error
            self._held = True
            stack.callback(setattr, self, "_held", False)
            remove_unfinished(self.path)
            yield

    @property
    def config_path(self) -> Path:
        """Return where the record is."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """Return where the metrics are, JSON lines."""
        return self.path / "metrics.jsonl"

    def state_path(self, key: str) -> Path:
        """Return the folder of the training state of a trained student."""
        return self.path / "states" / key

    def snapshot_path(self, key: str) -> Path:
        """Return the folder where a training in progress keeps its snapshot."""
        return self.path / "work" / key

    def find_state(self, key: str) -> Path | None:
        """Return where a training state lies, None where none was ever written whole."""
        path = self.state_path(key)
        older = path.with_name(f"{key}.safetensors")  # a file, as older versions wrote it
        return next((p for p in (path, older) if is_finished(p)), None)

    def kept_states(self) -> list[Path]:
        """Return where all finished training states and snapshots lie."""
        paths = [p for folder in ("states", "work") for p in (self.path / folder).glob("*")]
        return sorted(path for path in paths if is_finished(path))

    def share_state(self, source: Path) -> None:
        """Have another run's training state as well."""
        target = self.path / "states" / source.name
        try:
            share(source, target)
        except OSError as error:
            raise _unwritable(target, error) from error

    def about(self) -> RunRecord | None:
        """Return what the run is, or None before the first start.

        Raises `StoreError` where that was written and is gone.
        """
        record = RunRecord.read(self.config_path)
        begun = 0 if record is not None else len(list((self.path / "rounds").glob("[0-9]*.json")))
        if begun:
            raise StoreError(
                f"{self.config_path} is gone, but {begun} rounds of the run are here: bring it "
                "back, or delete the folder to begin anew (what is in the store is found)"
            )
        return record

    @property
    def id(self) -> str | None:
        """Return what tells this run from another of its name, or None before the first start."""
        about = self.about()
        return None if about is None else about.id

    def branch(self) -> tuple[str, int] | None:
        """Return (origin, rounds shared with it), or None for a run that began with round 0."""
        about = self.about()
        began = None if about is None else about.branch
        return None if began is None else (began.run, began.rounds)

    @property
    def first_round(self) -> int:
        """Return the first round that the run plays itself: after those shared with its origin."""
        began = self.branch()
        return 0 if began is None else began[1]

    def save(self, record: RunRecord) -> None:
        """Write what the run is."""
        record.write(self.config_path)

    def round(self, number: int) -> RoundPointers | None:
        """Return the pointers of a round, or None where it has not begun."""
        return RoundPointers.read(self._round_path(number))

    def rounds(self) -> Iterator[tuple[int, RoundPointers]]:
        """Yield (number, pointers) of all rounds that have begun, in order."""
        for path in sorted((self.path / "rounds").glob("[0-9]*.json")):
            pointers = RoundPointers.read(path)
            if pointers is not None and _NUMBER.fullmatch(path.stem):
                yield int(path.stem), pointers

    def point(self, number: int, **pointers: Any) -> None:
        """Add pointers to a round."""
        before = self.round(number) or RoundPointers()
        after = RoundPointers.model_validate(before.dump() | pointers)
        if after != before:
            after.write(self._round_path(number))

    def append(self, line: dict[str, Any]) -> None:
        """Add a line of metrics; one that was cut by a kill is ended first."""
        try:
            self._metrics.append(line)
        except OSError as error:
            raise _unwritable(self.metrics_path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return all lines of metrics but those that a kill has cut.

        Each is parsed once, however often this is asked. Raises `StoreError` for a damaged line.
        """
        return self._metrics.read()

    @property
    def final(self) -> Path:
        """Return where the last student is found."""
        return self.path / "final"

    def point_final(self, address: str) -> bool:
        """Let `final` be a link to a folder, or a file with an address that is not on this machine.

        Return whether it is: a folder that stands there (copies that follow links make one) stays.
        """
        if self.final.is_dir() and not self.final.is_symlink():
            return False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if "://" in address:
                with replacing(self.final) as beside:
                    beside.write_text(f"{address}\n", encoding="utf-8")
            else:
                link(self.final, user_path(address))
        except OSError as error:
            raise _unwritable(self.final, error) from error
        return True

    def drop_snapshot(self, key: str) -> None:
        """Delete what a training left to go on from: it has been committed."""
        shutil.rmtree(self.snapshot_path(key), ignore_errors=True)

    def keep_states(self, keys: Sequence[str]) -> None:
        """Delete all training states and snapshots but those of these keys."""
        for folder in ("states", "work"):
            for path in (self.path / folder).glob("*"):
                if path.name.split(".")[0] in keys:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _round_path(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:04d}.json"


class RunView(RunFolder):
    """A run folder to look with: what would be written to it stays in this object."""

    def __init__(self, runs: str | Path, name: str) -> None:
        super().__init__(runs, name)
        self._record: RunRecord | None = None
        self._pointers: dict[int, RoundPointers] = {}
        self._added: list[dict[str, Any]] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold nothing: nothing is written."""
        yield

    def about(self) -> RunRecord | None:
        """Return what the run is, as it would be."""
        return self._record or super().about()

    def save(self, record: RunRecord) -> None:
        """Remember what the run would be."""
        self._record = record

    def round(self, number: int) -> RoundPointers | None:
        """Return the pointers of a round, as they would be."""
        return self._pointers.get(number) or super().round(number)

    def rounds(self) -> Iterator[tuple[int, RoundPointers]]:
        """Yield (number, pointers) of all rounds, as they would be."""
        yield from sorted((dict(super().rounds()) | self._pointers).items())

    def point(self, number: int, **pointers: Any) -> None:
        """Remember pointers of a round."""
        before = self.round(number) or RoundPointers()
        self._pointers[number] = RoundPointers.model_validate(before.dump() | pointers)

    def append(self, line: dict[str, Any]) -> None:
        """Remember a line of metrics."""
        self._added.append(line)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all lines of metrics, those remembered last."""
        return [*super().metrics(), *self._added]

    def share_state(self, source: Path) -> None:
        """Do nothing."""

    def point_final(self, address: str) -> bool:
        """Do nothing."""
        return True

    def drop_snapshot(self, key: str) -> None:
        """Do nothing."""

    def keep_states(self, keys: Sequence[str]) -> None:
        """Do nothing."""


def run_names(runs: str | Path) -> list[str]:
    """Return the names of all runs under a folder, of those that have lost their record too."""
    folder = user_path(runs)
    found = [*folder.glob("*/config.json"), *folder.glob("*/rounds")]
    return sorted({path.parent.name for path in found})


def _seal(path: Path, values: dict[str, Any]) -> str:
    return key_of([path.name, values])


def _unreadable(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path}: unreadable ({reason}); restore it or delete it")


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: cannot be written ({error.strerror}); check `runs` in the config")


def record_of(run: RunFolder) -> RunRecord:
    """Return the record of a run. Raises `ConfigError` where there is no such run."""
    record = run.about()
    if record is None:
        runs = run.path.parent
        raise ConfigError(f"no run {run.name} under {runs}; `tip status --runs {runs}` lists them")
    return record
