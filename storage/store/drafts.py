"""Drafts: what is being written, invisible until it is committed.

Every draft is a private local folder and a lock file beside it. The kernel drops the lock when
its process ends, however it ends, and keeps it while the process is merely stopped: so a sweep
can tell a dead writer's draft from a slow one's.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from ..columns import Column
from ..content import content_hash
from ..errors import StoreError
from ..ledger import Ledger
from ..tables import write_table
from .artifacts import Part, contents_hash, damage, file_hash
from .places import check_name, remove_tree, reported, unique

GRACE_SECONDS = 60.0  # a small file is written, linked and gone in far less


_Hashed = tuple[tuple[int, int], str]
"""Size and time of a file, and the hash that it had then."""


class Draft:
    """What a `make` function writes into; every file in `folder` becomes a part."""

    def __init__(self, folder: Path, ledger: Ledger | None = None) -> None:
        self.folder = folder
        """Local folder for writers that choose file names themselves, such as checkpoints."""
        self.ledger = ledger or Ledger()
        self._announced: set[str] = set()
        self._tables: dict[str, tuple[str, int, str]] = {}
        self._beside: dict[str, Future[_Hashed]] = {}

    def table(self, name: str, table: pa.Table, columns: tuple[Column, ...]) -> None:
        """Add a table as part `name`. Errors are those of `write_table`."""
        file = f"{check_name(name)}.parquet"
        if file in self._tables:
            raise ValueError(f"part {name!r} is written twice")
        path = self.file(file)
        with self.ledger.of("writing"):
            with reported("write", path):
                written = write_table(path, table, columns)
            self._tables[file] = (name, written.num_rows, content_hash(written))

    def adopt(self, source: Path, part: Part) -> None:
        """Add a copy of what was committed elsewhere as a part. Its rows count as its content.

        Raises `StoreError` where the copy's bytes are not those that were committed.
        """
        file = part.file.partition("/")[2]
        path = self.file(file)
        with reported("write", path):
            shutil.copyfile(source, path)
        if (wrong := damage(path, part)) is not None:
            raise StoreError(f"{source}: {wrong}")
        if part.rows is not None:
            self._tables[file] = (part.name, part.rows, part.content)

    def file(self, name: str) -> Path:
        """Return the path to which the caller writes part `name`, such as `config.json`."""
        path = self.folder / check_name(name)
        with reported("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._announced.add(name)
        return path

    def hash_beside(self) -> None:
        """Let a thread hash the files that are there, while their writer goes on.

        One that is changed afterwards is hashed again.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="tip-draft")
        for path in _leaves(self.folder):
            name = path.relative_to(self.folder).as_posix()
            self._beside[name] = pool.submit(_hashed, path)
        pool.shutdown(wait=False)

    def parts(self) -> dict[str, Part]:
        """Return what has been written, by name.

        Raises `StoreError` if a file was announced and not written, or has an unusable name.
        """
        found = {p.relative_to(self.folder).as_posix(): p for p in _leaves(self.folder)}
        if missing := sorted(self._announced - found.keys()):
            raise StoreError(f"the maker announced {missing} and wrote no such file")
        parts: dict[str, Part] = {}
        for file, path in sorted(found.items()):
            part = self._part(file, path)
            if part.name in parts:
                raise StoreError(f"two parts have the name {part.name!r}")
            parts[part.name] = part
        return parts

    def content(self) -> str:
        """Return the content hash of an artifact of what has been written. Raises as `parts`."""
        return contents_hash(self.parts())

    def _part(self, file: str, path: Path) -> Part:
        if path.is_symlink() or not path.is_file():
            raise StoreError(f"{path} is not a plain file: write its bytes instead of a link")
        try:
            check_name(file)
        except ValueError as error:
            raise StoreError(f"cannot store {path}: {error}") from error
        with reported("read", path):
            size, digest = path.stat().st_size, self._digest(file, path)
        name, rows, content = self._tables.get(file) or (file, None, digest)
        return Part(name, f"{self.folder.name}/{file}", size, rows, content, digest)

    def _digest(self, file: str, path: Path) -> str:
        if file in self._beside:
            stamp, digest = self._beside[file].result()
            if stamp == _stamp(path):
                return digest
        return file_hash(path)


def _hashed(path: Path) -> _Hashed:
    return _stamp(path), file_hash(path)


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


@contextmanager
def drafted(drafts: Path, name: str | None = None, ledger: Ledger | None = None) -> Iterator[Draft]:
    """Give a new draft below `drafts`; whatever was not taken from it is gone afterwards."""
    name = name or unique()
    folder, lock = drafts / name, _lock_of(drafts, name)
    with reported("write", folder):
        drafts.mkdir(parents=True, exist_ok=True)  # in a cache, which may be deleted at any time
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: then nothing of it is ever swept
            fcntl.flock(handle, fcntl.LOCK_EX)
        with reported("write", folder):
            folder.mkdir()
        yield Draft(folder, ledger)
    finally:
        try:
            remove_tree(folder)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)


@contextmanager
def abandoned(drafts: Path, name: str) -> Iterator[bool]:
    """Tell whether no living process owns a draft, and keep it so meanwhile."""
    handle = None
    try:
        handle = os.open(_lock_of(drafts, name), os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except FileNotFoundError:
        free = True
    except OSError:  # held, another user's, or no locks here: leave the draft alone
        free = False
    try:
        yield free
    finally:
        if handle is not None:
            os.close(handle)


def sweep_drafts(drafts: Path, older_than_seconds: float) -> list[str]:
    """Remove the drafts and half-written small files of dead processes; return their names."""
    removed = []
    with reported("list", drafts):
        paths = sorted(drafts.iterdir()) if drafts.exists() else []
        now = _now(drafts) if paths else 0.0
    for path in paths:
        age = _age(path, now)
        if path.suffix == ".tmp":
            if age >= max(older_than_seconds, GRACE_SECONDS):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        elif age >= older_than_seconds:
            with abandoned(drafts, path.stem) as free:
                if free and path.exists():
                    remove_tree(drafts / path.stem)
                    _lock_of(drafts, path.stem).unlink(missing_ok=True)
                    removed.append(path.stem)
    return removed


def _lock_of(drafts: Path, name: str) -> Path:
    return drafts / f"{name}.lock"


def _now(folder: Path) -> float:
    """Return the time by the clock that dates a folder's files: a server's, not this host's."""
    path = folder / f"{unique()}.tmp"
    try:
        path.touch()
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return -1.0


def _leaves(folder: Path) -> Iterator[Path]:
    """Give every file and every link below a folder; links are not followed."""
    for parent, folders, names in os.walk(folder):
        linked = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in (*names, *linked))
