"""What all tests of the stages share: one thread, no clock in properties, a memo of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from devices import DEVICES
from hypothesis import settings

if TYPE_CHECKING:
    from tiny_training import Round

# A shared machine may pause for longer than hypothesis' 200 ms: time is no property here.
settings.register_profile("stages", deadline=None)
settings.load_profile("stages")

# Tiny products gain nothing from threads, and bit-for-bit promises hold at one thread count.
torch.set_num_threads(1)


@pytest.fixture(scope="module", params=DEVICES, ids=lambda device: device.type)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return a device of this machine: what asks for it runs on each."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def fingerprint_memo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what is remembered of hashed weights out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> "Round":
    """A round of a Qwen3 with a head of its own."""
    from tiny_training import make_round

    return make_round(tmp_path_factory.mktemp("untied"), "qwen3", tied=False)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> "Round":
    """A round of a Qwen2, biases included, whose head is its embedding."""
    from tiny_training import make_round

    return make_round(tmp_path_factory.mktemp("tied"), "qwen2", tied=True)
