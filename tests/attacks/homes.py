"""A folder with a config, a store and runs, the processes that work in it, and what they left."""

import json
import multiprocessing
import os
import re
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tip.storage.runs import RunFolder, run_names
from tip.storage.store.store import Store

from .killing import Order, Point, enter

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))
HANGS = 300.0  # seconds; nothing here takes a tenth of it

# Children are forks of a process that has imported everything and computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "duckdb", "polars", "pyarrow.parquet", "safetensors.torch", "typer", "rich"),
        *("transformers.models.qwen3.modeling_qwen3", "pytest", "scipy.stats"),
        *("tip.cli", "tip.pipeline.rounds.play", "tip.pipeline.rounds.branching"),
        *("tip.pipeline.show.status", "tip.pipeline.show.verify", "tip.pipeline.show.listing"),
    ]
)


@dataclass(frozen=True)
class Home:
    """A folder in which commands of `tip` are run; all its paths are relative, so it may move."""

    folder: Path

    @property
    def store(self) -> Store:
        """Return the store to look at."""
        return Store(self.folder / "store", write=False)

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.folder / "runs", name)

    def order(self, *arguments: str, silence: float | None = None) -> Order:
        """Return a command to be run here, with a log of its own."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{len(list(logs.glob('*.log'))):03d}.log"
        log.touch()
        return Order(arguments, self.folder, log, silence=silence)

    def configure(self, problems: Path, name: str = "config", **changes: Any) -> None:
        """Write a config of a miniature run; keyword arguments change sections."""
        values: dict[str, Any] = {
            "name": "run",
            "rounds": 2,
            "store": "store",
            "runs": "runs",
            "threads": 1,
            "student": {"model": str(PAIR / "student")},
            "teacher": {"model": str(PAIR / "teacher")},
            "prompts": {"source": str(problems / "train.jsonl"), "template": "raw"},
            "rollout": {"prompts": 34, "max_tokens": 8},
            "select": {"rule": "soft_or", "keep": 0.2},
            "train": {"lr": 3e-4, "rollouts_per_step": 12},
        }
        for key, value in changes.items():
            values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.toml").write_text(toml(values))

    def grow_old(self, seconds: float = 3600) -> None:
        """Let what lies here for a moment be older than it is."""
        for folder in ("store/.drafts", "store/.probes", "tmp"):
            for path in sorted((self.folder / folder).rglob("*"), reverse=True):
                moment = path.lstat().st_mtime - seconds
                os.utime(path, (moment, moment), follow_symlinks=False)


class Child:
    """A process that runs an order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.process = CONTEXT.Process(target=enter, args=(order,))
        self.process.start()

    def ended(self) -> int:
        """Wait, and return the exit code."""
        self.process.join(HANGS)
        assert self.process.exitcode is not None, f"hangs: {self.order.arguments}\n{self.shown}"
        return self.process.exitcode

    def stopped(self) -> bool:
        """Wait until it has stopped or ended, and tell whether it has stopped."""
        until = time.monotonic() + HANGS
        while self.process.exitcode is None:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
            assert time.monotonic() < until, f"neither stops nor ends: {self.order.arguments}"
            time.sleep(0.01)
        return False

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def shown(self) -> str:
        """Return what it printed."""
        return Path(f"{self.order.log}.shown").read_text(errors="replace")


def played(order: Order) -> list[str]:
    """Run an order to its good end; return its log."""
    child = Child(order)
    assert child.ended() == 0, child.shown
    return log_of(order)


def log_of(order: Order) -> list[str]:
    """Return what a process did, a line each."""
    return order.log.read_text().splitlines()


def points_of(log: list[str], word: str = "call") -> list[Point]:
    """Return all moments at which a process with such a log can be killed. word: see `Point`."""
    points: list[Point] = []
    for number, line in enumerate((x for x in log if x.startswith(f"{word} ")), 1):
        moments = ("before", "amid", "after") if line.endswith(" half") else ("before", "after")
        points += [Point(number, moment, word) for moment in moments]
    return points


def made_by(log: list[str]) -> list[str]:
    """Return the artifacts that a process began to make."""
    return [line.removeprefix("make ") for line in log if line.startswith("make ")]


def toml(values: dict[str, Any]) -> str:
    """Return a config's text; JSON's scalars are TOML's."""
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in section.items())]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What must be the same whatever happened on the way."""

    artifacts: dict[str, str]
    """Content hashes by kind and key: of everything in the store."""
    pointers: dict[str, list[dict[str, Any]]]
    states: dict[str, dict[str, str]]
    """What a training state says of itself and the hashes of its tensors, by run and key."""
    numbers: dict[str, dict[tuple[int, str], dict[str, Any]]] = field(repr=False)
    """What was last told of a stage, by run."""


# What a stage cost, which depends on what was there, and when.
_COSTS = re.compile(
    r"seconds|spent|peak_.*|fresh|generated_tokens|reused_tokens|own_tokens|teacher_tokens_.*"
)


def outcome(home: Home, *names: str) -> Outcome:
    """Return what is kept in a home, of all its runs or of some."""
    runs = [home.run(name) for name in names or run_names(home.folder / "runs")]
    return Outcome(
        {f"{a.kind}/{a.key}": a.content for a in home.store.list()},
        {run.name: [pointers.dump() for _, pointers in run.rounds()] for run in runs},
        {run.name: {p.name: sealed(p) for p in (run.path / "states").glob("*")} for run in runs},
        {run.name: _numbers(run) for run in runs},
    )


def sealed(state: Path) -> str:
    """Return what a training state says of itself, with the hashes of its tensors."""
    with safe_open(state / "state.safetensors", framework="pt") as file:
        return file.metadata()["sealed"]


def _numbers(run: RunFolder) -> dict[tuple[int, str], dict[str, Any]]:
    lines = {(line["round"], line["stage"]): line for line in run.metrics()}
    return {
        at: {name: value for name, value in line.items() if not _COSTS.fullmatch(name)}
        for at, line in lines.items()
    }


def committed(home: Home) -> dict[str, tuple[int, int, int]]:
    """Return inode, time and size of all files of committed artifacts, by name."""
    found = {}
    if not (home.folder / "store").is_dir():
        return found
    for artifact in home.store.list():
        below = f"{artifact.kind}/{artifact.key[:2]}/{artifact.key}"
        for name in ("manifest.json", *(part.file for part in artifact.parts.values())):
            about = (home.folder / "store" / below / name).stat()
            found[f"{below}/{name}"] = (about.st_ino, about.st_mtime_ns, about.st_size)
    return found


def left_in_store(home: Home) -> list[str]:
    """Return all files of a store that are not those of committed artifacts."""
    store, kept = home.folder / "store", set(committed(home))
    files = (p.relative_to(store).as_posix() for p in store.rglob("*") if not p.is_dir())
    return sorted(set(files) - kept)


def left_elsewhere(home: Home) -> list[str]:
    """Return what is left of killed processes in runs, memories and temporary folders."""
    left = [
        path
        for folder, patterns in (
            ("runs", ("*.part", ".tmp*", "work/*", "claim*")),
            ("tmp", ("*/*",)),
            ("cache", ("*.*",)),
        )
        for pattern in patterns
        for path in (home.folder / folder).rglob(pattern)
    ]
    return sorted(path.relative_to(home.folder).as_posix() for path in left)
