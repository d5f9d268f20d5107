"""A run's own folder: its configuration, pointers into the store, metrics and private states.

Layout, which only this module knows:

    <runs>/<name>/config.json            the resolved configuration
                  rounds/0000.json       which artifacts the round used and made
                  metrics.jsonl          a line a stage
                  states/<key>.safetensors   training states (private, the last rounds)
                  work/<key>.safetensors     snapshots inside a round

Deleting the folder loses no teacher score: those are in the store.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ConfigError, StoreError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunFolder:
    """The folder of one run; made when first written to."""

    def __init__(self, runs: str | Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name = {name!r}: expected letters, digits, '.', '_' or '-', starting with a "
                "letter or digit, at most 100 characters"
            )
        self.name = name
        self.path = Path(runs).expanduser() / name

    @property
    def config_path(self) -> Path:
        """Return where the resolved configuration is."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """Return where the metrics are, JSON lines."""
        return self.path / "metrics.jsonl"

    def state_path(self, key: str) -> Path:
        """Return where the training state of a trained student is."""
        return self.path / "states" / f"{key}.safetensors"

    def snapshot_path(self, key: str) -> Path:
        """Return where a training in progress keeps its snapshot."""
        return self.path / "work" / f"{key}.safetensors"

    def config(self) -> dict[str, Any] | None:
        """Return the resolved configuration, or None before the first start."""
        return _read_json(self.config_path)

    @property
    def id(self) -> str | None:
        """Return what tells this run from another of its name, or None before the first start."""
        return (self.config() or {}).get("id")

    def branch(self) -> tuple[str, int] | None:
        """Return (origin, rounds shared with it), or None for a run that began with round 0."""
        began = (self.config() or {}).get("branch")
        return None if began is None else (began["run"], int(began["rounds"]))

    @property
    def first_round(self) -> int:
        """Return the first round that the run plays itself: after those shared with its origin."""
        began = self.branch()
        return 0 if began is None else began[1]

    def save_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration."""
        _write_json(self.config_path, config)

    def round(self, number: int) -> dict[str, Any] | None:
        """Return the pointers of a round, or None where it has not begun."""
        return _read_json(self._round_path(number))

    def rounds(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number, pointers) of all rounds that have begun, in order."""
        for path in sorted((self.path / "rounds").glob("[0-9]*.json")):
            pointers = _read_json(path)
            if pointers is not None:
                yield int(path.stem), pointers

    def update_round(self, number: int, **pointers: Any) -> None:
        """Add pointers to a round."""
        before = self.round(number) or {}
        if before | pointers != before:
            _write_json(self._round_path(number), before | pointers)

    def record(self, metrics: dict[str, Any]) -> None:
        """Append a line of metrics; one that was cut by a kill is ended first."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.metrics_path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    cut = file.read() != b"\n"
                    file.write(b"\n" * cut)
                file.write(json.dumps(metrics).encode() + b"\n")
        except OSError as error:
            raise StoreError(
                f"{self.metrics_path}: cannot be written ({error.strerror}); check `runs` in the "
                "config"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return all metrics lines; one that was cut by a kill is left out."""
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_text(encoding="utf-8", errors="replace").split("\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def keep_states(self, keys: list[str]) -> None:
        """Delete all training states and snapshots but those of these keys."""
        for folder in ("states", "work"):
            for path in (self.path / folder).glob("*.safetensors"):
                if path.stem not in keys:
                    path.unlink(missing_ok=True)

    def _round_path(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:04d}.json"


def run_names(runs: str | Path) -> list[str]:
    """Return the names of all runs under a folder."""
    return sorted(p.parent.name for p in Path(runs).expanduser().glob("*/config.json"))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise StoreError(f"{path}: unreadable ({error}); restore it or delete it") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write beside, flush, rename: a reader sees the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); check `runs` in the config"
        ) from error
