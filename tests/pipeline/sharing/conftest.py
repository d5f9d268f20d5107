"""A hub on loopback, and a client that asks it; huggingface_hub reads its environment once."""

from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from ..conftest import one_thread  # noqa: F401
from .standin import TOKEN, StandIn


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    server = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.stop()
