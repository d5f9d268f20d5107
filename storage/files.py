"""A file or folder appears whole or not at all: written beside, flushed, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write a file to; afterwards it is `path`, durably.

    A reader sees the old file or the new one. On an error nothing of the new one remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def share(source: Path, target: Path) -> None:
    """Make a file or folder whose files are only ever replaced, never changed, appear as another.

    By links; copied where there are none. What is there already stays.
    """
    for path in [source, *source.rglob("*")]:
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except FileExistsError:
            continue
        except OSError:
            shutil.copyfile(path, to)
