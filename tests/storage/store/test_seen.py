"""A store of the same name is the same store, or is refused before anything is made there."""

from pathlib import Path

import pytest
from tip.storage.errors import StoreError
from tip.storage.store.seen import leave_mark, refuse_another, remove_mark
from tip.storage.store.store import Store


def test_a_store_with_the_mark_is_the_same_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    mark = leave_mark(store)
    refuse_another(str(tmp_path / "store"), mark, "host")
    remove_mark(store, mark)
    remove_mark(store, mark)
    with pytest.raises(StoreError):
        refuse_another(str(tmp_path / "store"), mark, "host")


def test_another_folder_is_named_with_its_host_and_not_made(tmp_path: Path) -> None:
    mark = leave_mark(Store(tmp_path / "store"))
    with pytest.raises(StoreError, match=r"store = '.*/other' is not on far what it is"):
        refuse_another(str(tmp_path / "other"), mark, "far")
    assert not (tmp_path / "other").exists()
