"""`tip push`: a student, or a run's signals, sent to a repository of the hub."""

from collections.abc import Callable
from pathlib import Path

from ...storage.errors import ConfigError, StoreError
from ...storage.runs import RunFolder, record_of
from ...storage.scratch import scratch
from ...storage.visible import visible
from ..export import refuse_type, trained_student, write
from ..show.cells import size
from .hub import Kind, check_name, listed, send

_ROOM = "set TMPDIR to a folder with room for it, or free some space"


def push_student(
    origin: str,
    name: str,
    runs: str,
    *,
    private: bool,
    adapter: bool,
    dtype: str | None,
    replace: bool,
    dry: bool,
) -> None:
    """Export the student of `RUN@N` into a folder for a moment, and send it as a model.

    dry: say what would be sent; nobody is asked. Raises a `TipError` for what is not there or may
    not be sent, before anything is in the repository.
    """
    refuse_type(dtype)
    trained = trained_student(runs, origin, "tip push")

    def fill(folder: Path) -> None:
        write(trained, folder, Path(name), adapter=adapter, dtype=dtype)

    _push(trained.name, name, "model", trained.run, fill, private, replace, dry)


def _push(
    what: str,
    name: str,
    kind: Kind,
    run: RunFolder,
    fill: Callable[[Path], None],
    private: bool,
    replace: bool,
    dry: bool,
) -> None:
    check_name(name)
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
        if dry:
            for file, bytes_ in files:
                print(visible(f"{file}  {size(bytes_)}"))
            print(visible(f"{what} would be sent to {name} ({kind}): {len(files)} files, {total}"))
            return
        where = send(
            folder,
            name,
            kind,
            what=what,
            private=private,
            replace=replace,
            run=record_of(run).id or run.name,
        )
    print(visible(f"{what} is at {where}: {len(files)} files, {total}"))
