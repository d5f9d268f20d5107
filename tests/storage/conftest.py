"""Stores for the tests: folders, and buckets of a real S3 protocol server on loopback."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from tip.storage.store.store import Patience, Store

QUICK = Patience(beat_seconds=0.04, silence_seconds=0.4)


def one_at_a_time(put: Callable[..., Any]) -> Callable[..., Any]:
    """Make a put atomic, as S3 promises: the double looks first whether the name is free."""
    lock = threading.Lock()

    def locked(*arguments: Any) -> Any:
        with lock:
            return put(*arguments)

    return locked


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up the rights of root, which no permission stops, for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server; the environment points every client at it, child processes included."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", one_at_a_time(S3Response.put_object))
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("tip-test")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store."""
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("s3_server")
    return f"s3://tip-test/{uuid4().hex}/store"


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    """An empty store with short patience."""
    return Store(root, cache=tmp_path / "cache", patience=QUICK)
