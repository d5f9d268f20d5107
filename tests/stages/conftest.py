"""What all tests of the stages share: one thread, no clock in properties, a memo of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A shared machine may pause for longer than hypothesis' 200 ms: time is no property here.
settings.register_profile("stages", deadline=None)
settings.load_profile("stages")

# Tiny products gain nothing from threads, and bit-for-bit promises hold at one thread count.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _fingerprint_memo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what is remembered of hashed weights out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
