"""A place in an object store, read through a local cache.

Objects are never renamed: parts are put under their final, unique names and stay invisible until
the manifest exists. The cache is keyed by content: a file in it is whole, verified and never
changes, so the cache may be shared by processes and stores, and deleted at any time.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from ..errors import StoreError
from .places import DamageOf, Entry, damaged, missing, reported, seal, unique

# Object stores whose create-only write is atomic on the server (S3: If-None-Match, Google:
# ifGenerationMatch=0). Other fsspec file systems look first and write then: two could both win.
ATOMIC_PROTOCOLS = ("s3", "s3a", "gs", "gcs")
_ATTEMPTS = 4


def default_cache() -> Path:
    """Return the local cache folder: `$TIP_CACHE`, else `~/.cache/tip`."""
    return Path(os.environ.get("TIP_CACHE") or Path.home() / ".cache" / "tip")


class RemotePlace:
    """A prefix of a bucket, such as `s3://bucket/tip`."""

    def __init__(self, url: str, cache: Path | None = None, *, write: bool = True) -> None:
        self.url = url.rstrip("/")
        self.cache = (cache or default_cache()).absolute()
        self.drafts = self.cache / ".drafts"
        if write:
            self._make_cache()
        self.fs, self.root = _connect(self.url)

    def __str__(self) -> str:
        return self.url

    def _make_cache(self) -> None:
        with reported("write to the cache", self.cache):
            self.drafts.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Put an object on the condition that the name is free, repeating what failed."""
        path = f"{self.root}/{name}"
        with self._reported("write", name):
            for attempt in range(_ATTEMPTS):
                failure = self._refusal(path, data)
                if failure is None:
                    return True
                # A put whose answer was lost is repeated and then refused: what lies there tells.
                there = self.read(name)
                if there is not None:
                    return there == data
                if attempt == _ATTEMPTS - 1:
                    raise failure
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _refusal(self, path: str, data: bytes) -> OSError | None:
        try:
            self.fs.pipe_file(path, data, mode="create")
        except OSError as error:
            return error
        return None

    def read(self, name: str) -> bytes | None:
        """Get an object."""
        with self._reported("read", name), suppress(FileNotFoundError):
            return self.fs.cat_file(f"{self.root}/{name}")
        return None

    def write(self, name: str, data: bytes) -> None:
        """Put an object."""
        with self._reported("write", name):
            self.fs.pipe_file(f"{self.root}/{name}", data)

    def adopt(self, draft: Path, folder: str, content: str) -> None:
        """Put the files of a draft one by one; the draft itself becomes the cached copy."""
        with reported("write", draft):
            seal(draft)
        for path in sorted(p for p in draft.rglob("*") if p.is_file()):
            name = f"{folder}/{path.relative_to(draft).as_posix()}"
            with self._reported("write", name):
                self.fs.put_file(str(path), f"{self.root}/{name}")
        self._keep(draft, content)

    def _keep(self, draft: Path, content: str) -> None:
        """Turn a draft into a cached folder, unless another process did so with its own."""
        target = self._cached(content)
        # A rename fails on a folder that holds files; a failure costs a download, no more.
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(draft, target)

    def local(self, name: str, cached: str, damage: DamageOf) -> Path:
        """Return the cached copy of a part; a damaged one is fetched again."""
        target = self._cached(cached)
        if target.exists():
            if damage(target) is None:
                return target
            with reported("remove from the cache", target):
                target.unlink(missing_ok=True)
        with self.opened(name) as path:
            if path is None:
                raise StoreError(missing(f"{self.url}/{name}"))
            if (wrong := damage(path)) is not None:
                raise StoreError(damaged(f"{self.url}/{name}", wrong))
            with reported("write to the cache", target):
                path.chmod(0o444)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        return target

    def _cached(self, name: str) -> Path:
        return self.cache / name[:2] / name

    @contextmanager
    def opened(self, name: str) -> Iterator[Path | None]:
        """Download an object for as long as the context lasts."""
        self._make_cache()
        path = self.drafts / f"{unique()}.tmp"
        try:
            yield path if self._fetch(name, path) else None
        finally:
            path.unlink(missing_ok=True)

    def _fetch(self, name: str, to: Path) -> bool:
        with self._reported("read", name), suppress(FileNotFoundError):
            self.fs.get_file(f"{self.root}/{name}", str(to))
            return True
        return False

    def entries(self, prefix: str) -> Iterator[Entry]:
        """List a prefix as the server sees it now."""
        top = f"{self.root}/{prefix}".rstrip("/")
        with self._reported("list", prefix):
            found: dict[str, dict[str, Any]] = self.fs.find(top, detail=True)
        for path, info in sorted(found.items()):
            # An empty folder that is filled meanwhile is listed as itself.
            if info["type"] != "file":
                continue
            below = path[len(top) + 1 :].split("/")
            if not any(folder.startswith(".") for folder in below[:-1]):
                yield Entry(path[len(self.root) + 1 :], _modified(info))

    def remove(self, name: str) -> None:
        """Delete an object."""
        with self._reported("remove", name), suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    def remove_folder(self, name: str) -> None:
        """Delete all objects of a prefix, one by one."""
        for entry in list(self.entries(name)):
            self.remove(entry.name)

    @contextmanager
    def _reported(self, doing: str, name: str) -> Iterator[None]:
        where = f"{self.url}/{name}"
        try:
            yield
        except StoreError:
            raise
        # Clients raise their own libraries' types, such as botocore's EndpointConnectionError,
        # which share no base below Exception.
        except Exception as error:
            raise StoreError(f"cannot {doing} {where}: {_one_line(error)}; {_WAY_OUT}") from error


_WAY_OUT = "check the credentials, the bucket and the network"


def _connect(url: str) -> tuple[Any, str]:
    protocol = url.split("://", 1)[0]
    if protocol not in ATOMIC_PROTOCOLS:
        raise StoreError(
            f"cannot use {url} as a store: {protocol} has no create-only write that is atomic; "
            f"expected a folder or a URL that starts with one of {', '.join(ATOMIC_PROTOCOLS)}"
        )
    try:
        # Listings must show what other hosts wrote a moment ago.
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise StoreError(f"cannot use {url} as a store: {_one_line(error)}") from error


def _modified(info: dict[str, Any]) -> float:
    """Return the server's time of an object's last write: S3 and Google name it differently."""
    stamp = info.get("LastModified") or info["mtime"]
    return stamp.timestamp()


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
