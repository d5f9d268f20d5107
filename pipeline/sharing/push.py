"""`tip push`: a student, or a run's signals, sent to a repository of the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import ConfigError, StoreError
from ...storage.runs import RunFolder, record_of
from ...storage.scratch import scratch
from ...storage.visible import visible
from ..export import refuse_type, trained_student, write
from ..show.cells import size
from .hub import Kind, check_name, listed, send
from .signals import write_signals

_ROOM = "set TMPDIR to a folder with room for it, or free some space"


@dataclass(frozen=True)
class Push:
    """Where something is sent, and how.

    replace: whatever else is there. dry: only say what would be sent; nobody is asked.
    """

    name: str
    runs: str
    private: bool = False
    replace: bool = False
    dry: bool = False


def push_student(origin: str, how: Push, *, adapter: bool, dtype: str | None) -> None:
    """Export the student of `RUN@N` into a folder for a moment, and send it as a model.

    Raises a `TipError` for what is not there or may not be sent, before anything is in the
    repository.
    """
    refuse_type(dtype)
    trained = trained_student(how.runs, origin, "tip push")

    def fill(folder: Path) -> None:
        write(trained, folder, Path(how.name), adapter=adapter, dtype=dtype)

    _push(trained.name, "model", trained.run, fill, how)


def push_signals(name: str, how: Push, rounds: str | None) -> None:
    """Send a run's signals as a data set. rounds: see `export_signals`; raises as it does."""
    run = RunFolder(how.runs, name)

    def fill(folder: Path) -> None:
        write_signals(run, folder, rounds)

    _push(f"signals of {name}", "dataset", run, fill, how)


def _push(what: str, kind: Kind, run: RunFolder, fill: Callable[[Path], None], how: Push) -> None:
    check_name(how.name)
    identity = record_of(run).id or run.name
    with scratch() as folder:
        try:
            fill(folder)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise ConfigError(
                f"{folder}: cannot be written ({error.strerror or error}); {_ROOM}"
            ) from error
        files = listed(folder)
        total = size(sum(each for _, each in files))
        if how.dry:
            for file, bytes_ in files:
                print(visible(f"{file}  {size(bytes_)}"))
            print(
                visible(f"{what} would be sent to {how.name} ({kind}): {len(files)} files, {total}")
            )
            return
        where = send(
            folder,
            how.name,
            kind,
            what=what,
            private=how.private,
            replace=how.replace,
            run=identity,
        )
    print(visible(f"{what} at {where}: {len(files)} files, {total}"))
