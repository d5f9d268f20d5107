"""A file appears whole or not at all: written beside, flushed, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from .errors import ConfigError

_BESIDE = ".part"  # suffix of what is being written


def user_path(text: str | Path) -> Path:
    """Return a path as a person writes it: `~` is a home.

    Raises `ConfigError` for what can be no path here: an unknown home, a name too long.
    """
    try:
        path = Path(text).expanduser()
        with suppress(PermissionError):  # told by who needs what lies there
            path.exists()
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{text}: no usable path ({reason})") from error
    return path


def nearest(folder: Path) -> Path:
    """Return a folder, or the first above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))


def unwritable(folder: Path) -> str | None:
    """Say why nothing could be written to a folder, though it were made; None where it could."""
    place = nearest(folder)
    if not place.is_dir():
        return f"{place} is a file"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write a file to; afterwards it is `path`, durably.

    A reader sees the old file or the new one. On an error nothing of the new one remains, and the
    error passes through; those of this function itself are `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}{_BESIDE}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def bytes_under(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; what is gone counts nothing."""
    total = 0
    if not path.is_dir():
        with suppress(OSError):
            total = path.lstat().st_size
        return total
    for below in path.rglob("*"):
        with suppress(OSError):
            total += below.lstat().st_size if below.is_file() and not below.is_symlink() else 0
    return total


def link(path: Path, folder: Path) -> None:
    """Make `path` a link to a folder, in place of one that is there; they may be moved together.

    Where links cannot be made it is a file with the folder's path.
    """
    target = os.path.relpath(folder.resolve(), path.parent.resolve())
    beside = path.with_name(f"{path.name}.{os.getpid()}{_BESIDE}")
    try:
        try:
            beside.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):
            beside.write_text(f"{target}\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside to write files to; afterwards it is `path`, whole and durably.

    path: not there, or an empty folder. On an error nothing remains, and it passes through; those
    of this function itself are `OSError`. A kill leaves the folder beside, under a name with the
    number of the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}{_BESIDE}")
    beside.mkdir()
    try:
        yield beside
        readable = beside.stat().st_mode & 0o666  # as the umask has it; some writers are stricter
        for written in [*beside.rglob("*"), beside]:
            if written.is_file():
                written.chmod(readable)
            _flush(written)
        beside.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder where its file system can, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing below a folder that nobody else writes to."""
    for pattern in (f"*.*{_BESIDE}", ".tmp??????"):  # ours, and safetensors' own below it
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


def is_finished(path: Path) -> bool:
    """Tell whether there is a file, or a folder in which at least one was written whole."""
    return any(p.is_file() and p.suffix != _BESIDE for p in (path, *path.rglob("*")))


def share(source: Path, target: Path) -> None:
    """Make a file or folder whose files are only ever replaced, never changed, appear as another.

    By links; copied where there are none. What is there already stays. Raises `OSError`.
    """
    for path in [source, *source.rglob("*")]:
        to = target / path.relative_to(source)
        if path.is_dir() or path.suffix == _BESIDE or to.exists():
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:
            with replacing(to) as beside:
                shutil.copyfile(path, beside)
