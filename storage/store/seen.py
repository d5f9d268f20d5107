"""Whether two hosts that open a store by the same name see the same one."""

from ..errors import StoreError
from .places import PROBES, unique
from .store import Store


def leave_mark(store: Store) -> str:
    """Write a small file that whoever sees the store finds; return its name.

    It is to be removed with `remove_mark`; what a killed process left goes with `sweep`.
    """
    name = f"{PROBES}/{unique()}"
    store.place.create(name, name.encode())
    return name


def remove_mark(store: Store, name: str) -> None:
    """Remove a mark, if it is there."""
    store.place.remove(name)


def refuse_another(root: str, mark: str, host: str) -> None:
    """Raise `StoreError` where the store of that name is not the one with the mark.

    It is looked at and not opened, so that no empty one is made. host: where this is asked.
    """
    if Store(root, write=False).place.read(mark) is None:
        raise StoreError(
            f"store = {root!r} is not on {host} what it is where the run was started: name a "
            "folder of a disk that all hosts of the cluster share, or a bucket (s3://...)"
        )
