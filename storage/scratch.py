"""Folders for what is needed for a moment; those of killed processes go with a later one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StoreError
from .store.drafts import drafted, sweep_drafts
from .store.places import reported, unique

_GRACE_SECONDS = 60.0  # a folder is made and locked in far less
_NAME_LENGTH = 8  # sockets are put below, whose paths are short


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder below TMPDIR that goes with the context, or, after a kill, with a later one."""
    home = _home()
    with suppress(StoreError):  # another process may be sweeping as well
        sweep_drafts(home, _GRACE_SECONDS)
    with drafted(home, unique()[:_NAME_LENGTH]) as draft:
        yield draft.folder


def _home() -> Path:
    """Return this user's folder below TMPDIR; a name that somebody else has taken is not used."""
    home = Path(tempfile.gettempdir(), f"tip-{os.getuid()}")
    with reported("write", home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = home.stat(follow_symlinks=False)
        if about.st_uid != os.getuid() or home.is_symlink():
            return Path(tempfile.mkdtemp(prefix="tip-"))
    return home
