"""Trackers follow `metrics.jsonl`, each in a thread with a cursor of its own.

A run never waits for one and never fails for one: metrics are in the run's folder first, and the
cursor (`track/<name>.json`) says how many lines a tracker has. What it could not be told is told at
the next start, or by `tip track`. A line is told once; a kill between a tracker's answer and the
cursor's writing tells one line a second time.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ...stages.boundary import one_line
from ...storage.errors import ConfigError, StoreError, TipError
from ...storage.files import replacing
from ...storage.runs import RunFolder, record_of
from ...storage.visible import visible
from ..config.toml import config_of
from ..config.track import Name
from ..session import Session
from .batches import Story
from .tracker import PACKAGES, Told, Tracker, opener

_LOOK_SECONDS = 1.0  # between two looks at the metrics
_AGAIN_SECONDS = 30.0  # before a tracker that was away is tried again


class Cursor(BaseModel):
    """How far a tracker has been told."""

    lines: int = 0

    @staticmethod
    def path(run: RunFolder, name: Name) -> Path:
        """Return where it is kept."""
        return run.path / "track" / f"{name}.json"

    @classmethod
    def read(cls, run: RunFolder, name: Name) -> "Cursor":
        """Return where a tracker is; at the beginning where nobody knows."""
        try:
            return cls.model_validate_json(cls.path(run, name).read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            path = cls.path(run, name)
            raise StoreError(
                f"{path}: unreadable; delete it to have everything told again"
            ) from error

    def write(self, run: RunFolder, name: Name) -> None:
        """Keep it, durably. Raises `OSError`."""
        with replacing(self.path(run, name)) as beside:
            beside.write_text(self.model_dump_json(), encoding="utf-8")


class Follower:
    """One tracker, told line after line what a run's metrics say."""

    def __init__(self, story: Story, name: Name) -> None:
        self.story = story
        self.name: Name = name
        self.problem: str | None = None
        """Why it could not be told last, None where it could."""
        self._tracker: Tracker | None = None
        self._ending, self._done = threading.Event(), threading.Event()

    def tell(self) -> int:
        """Tell all that it has not been told; return the lines told. Raises a `TipError`."""
        run, at, told = self.story.run, Cursor.read(self.story.run, self.name).lines, 0
        with one_line(lambda reason: StoreError(f"{self.name}: {reason}")):
            for lines, batch in self.story.batches(at):
                if batch is not None:
                    if self._tracker is None:
                        self._tracker = opener(self.name)(self._about())
                    self._tracker.send(batch)
                    told += 1
                Cursor(lines=lines).write(run, self.name)
        return told

    def close(self) -> None:
        """Let the tracker go. Raises a `TipError`."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with one_line(lambda reason: StoreError(f"{self.name}: {reason}")):
                tracker.close()

    def missing(self) -> int:
        """Return how many lines it has not been told."""
        run = RunFolder(self.story.run.path.parent, self.story.run.name)  # the thread has its own
        with suppress(TipError):
            return len(run.metrics()) - Cursor.read(run, self.name).lines
        return 0

    def start(self) -> None:
        """Follow from now on, in a thread that ends with the process at the latest."""
        threading.Thread(target=self._follow, name=f"track-{self.name}", daemon=True).start()

    def end(self) -> None:
        """Ask it to end once it has told everything, or cannot."""
        self._ending.set()

    def ended(self, seconds: float) -> bool:
        """Wait so long at most, and tell whether it has ended."""
        return self._done.wait(seconds)

    def _follow(self) -> None:
        again = 0.0
        try:
            while True:
                last = self._ending.is_set()  # asked first: what came before it is told below
                if last or time.monotonic() >= again:
                    try:
                        self.tell()
                        self.problem = None
                    except TipError as error:
                        self.problem, again = str(error), time.monotonic() + _AGAIN_SECONDS
                if last:
                    break
                self._ending.wait(_LOOK_SECONDS)
            with suppress(TipError):
                self.close()
        finally:
            self._done.set()

    def _about(self) -> Told:
        run, config = self.story.run, self.story.config
        folder = run.path / "track" / self.name
        identity = record_of(run).id or run.name
        return Told(config.track.project, run.name, identity, self.story.hyperparameters, folder)


@contextmanager
def tracked(session: Session) -> Iterator[None]:
    """Tell the config's trackers what comes of the run, while the block runs.

    At its end it waits for them, `track.patience_seconds` at most, and says what was not told.
    Raises `ConfigError` before the block where a tracker's package is not installed.
    """
    settings = session.config.track
    followers = [_follower(session, name) for name in dict.fromkeys(settings.to)]
    for follower in followers:
        follower.start()
    try:
        yield
    finally:
        for follower in followers:
            follower.end()
        limit = time.monotonic() + settings.patience_seconds
        for follower in followers:
            whole = follower.ended(max(0.0, limit - time.monotonic()))
            if missing := follower.missing():
                why = follower.problem or ("" if whole else "it is slow to answer")
                _say_missing(session, follower.name, missing, why)


def track(run: RunFolder, to: Sequence[str], project: str | None) -> None:
    """Tell trackers what they have not been told of a run, and print how much that was.

    to: names of trackers, those of the run's config where there are none. Raises a `TipError` for a
    run that is being played, and where a tracker cannot be told.
    """
    config = config_of(run)
    names = _names(to) or config.track.to
    if not names:
        raise ConfigError(f"run {run.name} tracks to nobody: name one with --to {_all()}")
    update = {} if project is None else {"project": project}
    config = config.model_copy(update={"track": config.track.model_copy(update=update)})
    for name in names:
        opener(name)  # a package that is not there is met before anybody is told
    with run.held():
        for name in names:
            follower = Follower(Story(run, config), name)
            try:
                told = follower.tell()
            finally:
                follower.close()
            print(visible(f"{name}: {told} lines of run {run.name} told"))


def _follower(session: Session, name: Name) -> Follower:
    opener(name)
    run = RunFolder(session.run.path.parent, session.run.name)  # a reader of lines of its own
    return Follower(Story(run, session.config), name)


def _say_missing(session: Session, name: str, lines: int, why: str) -> None:
    runs = "" if session.config.runs == "runs" else f" --runs {session.config.runs}"
    session.reporter.say(
        f"note: {lines} lines of metrics were not told to {name}{f' ({why})' if why else ''}; the "
        f"next start tells them, or `tip track {session.run.name} --to {name}{runs}`"
    )


def _names(to: Sequence[str]) -> list[Name]:
    for name in to:
        if name not in PACKAGES:
            raise ConfigError(f"--to {name}: expected {_all()}")
    return [name for name in PACKAGES if name in to]


def _all() -> str:
    return ", ".join(PACKAGES)
