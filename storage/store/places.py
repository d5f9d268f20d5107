"""Where artifacts lie: the one module that builds paths of the store.

    <root>/<kind>/<key[:2]>/<key>/manifest.json     created once, last: it makes the artifact
    <root>/<kind>/<key[:2]>/<key>/<draft>/<file>    parts; the draft's name is unique
    <root>/<kind>/<key[:2]>/<key>/claim-<n>         saves work, decides nothing
    <root>/.drafts/                                 what is being written (local stores)
    <root>/.probes/                                 written to learn of a place, and removed

A place knows names below its root and bytes, nothing of artifacts. Its one strong operation is
`create`: exactly one of several writers succeeds, and nobody ever sees half of what it wrote.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, ENOTSUP, EOPNOTSUPP, EPERM, EROFS
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from ..errors import StoreError
from ..keys import KEY_LENGTH

_OF_ROUNDS = ("rollouts", "teacher", "tokens", "selection", "checkpoint")
KINDS = (*_OF_ROUNDS, "evaluation", "merged", "reference", "probe")
MANIFEST = "manifest.json"
PROBES = ".probes"

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_UNIQUE = re.compile(r"[0-9a-f]{32}")
_SEGMENT = re.compile(r"[A-Za-z0-9._+=-]{1,200}")

_FULL = (ENOSPC, EDQUOT, EFBIG)
_FORBIDDEN = (EACCES, EROFS)
_NOT_ABLE = (EPERM, ENOTSUP, EOPNOTSUPP)

DamageOf = Callable[[Path], str | None]
"""Says in words what is wrong with a local copy of a part, or None."""


def check_kind(kind: str) -> str:
    """Return the kind, or raise `ValueError` if no artifact is of it."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    return kind


def check_key(key: str) -> str:
    """Return the key, or raise `ValueError` if it is not `KEY_LENGTH` hex digits."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"key {key!r}: expected {KEY_LENGTH} hex digits")
    return key


def check_name(name: str) -> str:
    """Return a relative name, or raise `ValueError` if it might lead anywhere but below."""
    segments = name.split("/")
    if any(s in (".", "..") or not _SEGMENT.fullmatch(s) for s in segments):
        raise ValueError(
            f"name {name!r}: expected a plain relative name of letters, digits and . _ + = -"
        )
    return name


def folder_name(kind: str, key: str) -> str:
    """Return the name of an artifact's folder."""
    return f"{check_kind(kind)}/{check_key(key)[:2]}/{key}"


def manifest_name(kind: str, key: str) -> str:
    """Return the name of an artifact's manifest."""
    return f"{folder_name(kind, key)}/{MANIFEST}"


class Located(NamedTuple):
    """A file's place in the layout: `rest` is its name in the artifact's folder."""

    kind: str
    key: str
    rest: str


def located(name: str) -> Located | None:
    """Read a name of the layout; None for files that do not belong to the store."""
    kind, _, key, rest = (*name.split("/", 3), "", "", "")[:4]
    try:
        belongs = name == f"{folder_name(kind, key)}/{rest}"
    except ValueError:
        return None
    return Located(kind, key, rest) if belongs else None


def unique() -> str:
    """Return a name that nobody else uses, 32 hex digits."""
    return uuid4().hex


def is_unique(name: str) -> bool:
    """Tell whether a name may have come from `unique`."""
    return _UNIQUE.fullmatch(name) is not None


@dataclass(frozen=True)
class Entry:
    """A file below a place's root, and when it was last written (seconds, the place's clock)."""

    name: str
    modified: float


class Place(Protocol):
    """What the store needs of a place. Every failure is a `StoreError` of one line."""

    drafts: Path
    """Local folder in which drafts are written, and from where `adopt` takes them."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it exists; False if somebody else's is there."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a small file, None if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write or overwrite a small file about which nobody has to be certain."""
        ...

    def adopt(self, draft: Path, folder: str, content: str) -> None:
        """Take over a finished draft folder, durably, as `folder`; `content` is its hash."""
        ...

    def local(self, name: str, cached: str, damage: DamageOf) -> Path:
        """Return a local path of an undamaged part; a remote place caches it as `cached`."""
        ...

    def opened(self, name: str) -> AbstractContextManager[Path | None]:
        """Give a local path of the very file that lies in the place, None if there is none."""
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """List all files in a folder and below, hidden ones excepted; `""` is the root."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all it holds, if it is there."""
        ...


@contextmanager
def reported(doing: str, where: object) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError` that says what failed, where, and the way out."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot {doing} {where}: {error.strerror or error}; {_way_out(error)}"
        ) from error


@contextmanager
def removed(place: Place, name: str) -> Iterator[None]:
    """Remove a file that was written to learn of a place, also where its write failed halfway."""
    try:
        yield
    except StoreError:
        with suppress(StoreError):  # what went wrong first is told
            place.remove(name)
        raise
    place.remove(name)


def missing(where: object) -> str:
    """Return what to say of a committed part that is not there."""
    return (
        f"{where} is missing; `tip cache verify` lists what is damaged. Remove its artifact's "
        "folder: it is made again"
    )


def damaged(where: object, wrong: str) -> str:
    """Return what to say of a committed part that is not what was committed."""
    return (
        f"{where} is damaged: {wrong}; `tip cache verify` lists all that is, and what was made "
        "from it. Remove its artifact's folder: it is made again"
    )


def disk_is_full(error: OSError) -> bool:
    """Tell whether an error says that a disk or a quota is used up."""
    return error.errno in _FULL


def _way_out(error: OSError) -> str:
    if disk_is_full(error):
        return "free some space, raise the quota or file size limit, or choose another store"
    if error.errno in _FORBIDDEN:
        return "give this user permission to write there, or choose another store"
    if error.errno in _NOT_ABLE:
        return "a store needs a file system with hard links: choose another store"
    return "check the path and that its disk is mounted, or choose another store"


class LocalPlace:
    """A folder of a file system with hard links and `fsync`, shared disks included."""

    def __init__(self, root: Path, *, write: bool = True) -> None:
        self.root = root.absolute()
        self.drafts = self.root / ".drafts"
        if write:
            with reported("write to the store", self.root):
                self.drafts.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return str(self.root)

    def create(self, name: str, data: bytes) -> bool:
        """Write beside, make durable, then link: the name appears with all its bytes."""
        path = self.root / name
        with reported("write", path):
            try:
                return self._create(path, data)
            except FileNotFoundError:  # swept away from this process, which has slept meanwhile
                return self._create(path, data)

    def _create(self, path: Path, data: bytes) -> bool:
        beside = self.drafts / f"{unique()}.tmp"
        try:
            _make_folders(path.parent)
            beside.write_bytes(data)
            beside.chmod(0o444)
            _sync(beside)
            # A link, unlike a rename, fails if the name is taken.
            os.link(beside, path)
            _sync(path.parent)
        except FileExistsError:
            # NFS may repeat a link that succeeded and report that it exists.
            return path.read_bytes() == data
        finally:
            beside.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> bytes | None:
        """Read a file."""
        with reported("read", self.root / name), suppress(FileNotFoundError):
            return (self.root / name).read_bytes()
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write beside, then replace."""
        path, beside = self.root / name, self.drafts / f"{unique()}.tmp"
        with reported("write", path):
            try:
                beside.write_bytes(data)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)

    def adopt(self, draft: Path, folder: str, content: str) -> None:
        """Make a draft durable, then rename it."""
        target = self.root / folder
        with reported("write", target):
            seal(draft)
            _make_folders(target.parent)
            os.rename(draft, target)
            _sync(target.parent)

    def local(self, name: str, cached: str, damage: DamageOf) -> Path:
        """Return the path in the store itself, unless a link leads elsewhere."""
        path = self.root / name
        artifact = path.parents[name.count("/") - 3]
        with reported("read", path):
            if not path.resolve().is_relative_to(artifact.resolve()):
                raise StoreError(f"{path} leads out of its artifact: remove {artifact}")
            if not path.exists():
                raise StoreError(missing(path))
        if (wrong := damage(path)) is not None:
            raise StoreError(damaged(path, wrong))
        return path

    @contextmanager
    def opened(self, name: str) -> Iterator[Path | None]:
        """Give the path in the store itself."""
        path = self.root / name
        yield path if path.is_file() else None

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Walk a folder in the order of names."""
        folder = self.root / prefix
        with reported("list", folder):
            for path in _files(folder):
                with suppress(FileNotFoundError):
                    modified = path.stat().st_mtime
                    yield Entry(path.relative_to(self.root).as_posix(), modified)

    def remove(self, name: str) -> None:
        """Unlink a file."""
        with reported("remove", self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """Remove a tree."""
        remove_tree(self.root / name)


def seal(folder: Path) -> None:
    """Make all files of a folder read-only and durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            path.chmod(0o444)
            _sync(path)
        _sync(Path(parent))


def remove_tree(folder: Path) -> None:
    """Remove a folder with all it holds, if it is there; of a link only the link itself."""
    with reported("remove", folder), suppress(FileNotFoundError):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folders(folder: Path) -> None:
    """Create a folder and its parents; the names of new ones are durable."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for created in reversed(missing):
        _sync(created.parent)


def _files(folder: Path) -> Iterator[Path]:
    """Give all files below a folder in order, those of hidden folders excepted."""

    def report(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, folders, names in os.walk(folder, onerror=report):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(parent, name) for name in sorted(names))
