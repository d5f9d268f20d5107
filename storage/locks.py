"""A folder that one process at a time writes to, whatever others are told to do with it.

The kernel keeps a lock as long as its process lives and drops it however that ends, so nobody waits
for the dead. It may not reach beyond this host: on a network's file system a claim is held as well,
which a process of another host sees (`store/claims.py`).
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import StoreError
from .store.claims import Patience, acquire
from .store.places import LocalPlace, reported

FILE = "lock"  # it stays when nobody holds it: to remove it would let two in
# File systems that other hosts may have mounted, by how their names in /proc/self/mounts begin.
_NETWORK = ("nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "9p", "fuse")


class HeldError(StoreError):
    """Somebody else holds a folder. holder: who that is, in words."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"it is held by {holder}")
        self.holder = holder

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.holder,)


@contextmanager
def held(folder: Path, patience: Patience | None = None) -> Iterator[None]:
    """Hold a folder, made where it is not there, for this process alone.

    Raises `HeldError` where another process holds it: at once on this host. patience: with a claim
    from another host; one that has fallen silent is taken over.
    """
    path = folder / FILE
    with reported("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with ExitStack() as stack:
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            claims = on_network(folder)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace")
            raise HeldError(holder or "another process") from error
        except OSError:  # a file system without locks
            claims = True
        if claims:
            stack.enter_context(_claimed(folder, patience or Patience()))
        with reported("write", path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield


@contextmanager
def _claimed(folder: Path, patience: Patience) -> Iterator[None]:
    """Hold a claim on a folder; a claim of a process that has ended is waited out."""
    last = time.monotonic() + patience.silence_seconds + 2 * patience.beat_seconds
    claim = acquire(LocalPlace(folder), "claims", patience, lambda: time.monotonic() > last)
    if claim is None:
        raise HeldError("a process of another host")
    with claim:
        yield


def on_network(folder: Path) -> bool:
    """Tell whether a folder lies on a file system that other hosts may have mounted, too."""
    here, best, kind = folder.resolve(), Path("/"), ""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, at, name, *_ = line.split(" ")
            point = Path(at.encode().decode("unicode_escape"))  # a space is \040 there
            if here.is_relative_to(point) and len(point.parts) >= len(best.parts):
                best, kind = point, name
    return kind.startswith(_NETWORK)
