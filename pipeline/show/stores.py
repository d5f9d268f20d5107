"""A store that somebody looks at."""

from ...storage.errors import StoreError
from ...storage.files import user_path
from ...storage.store.store import Store


def existing_store(root: str, *, write: bool = False) -> Store:
    """Open a store to look at it; one that is not there is named, not made."""
    if "://" not in root and not user_path(root).is_dir():
        raise StoreError(f"{root}: no such store; name one with --store (runs make theirs)")
    return Store(root, write=write)
