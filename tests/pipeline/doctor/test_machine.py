"""What is installed and where a run would be written is looked at without writing."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
from tip.pipeline.doctor.doctor import Finding, examine
from tip.storage.errors import StoreError

from ..conftest import MakeConfig


def first(config: MakeConfig) -> Finding:
    return next(iter(examine(config(), load=False)))


def test_a_version_that_was_not_asked_for_is_to_look_at(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(*needs: str) -> None:
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: list(needs))

    requires("torch>=2", "nobody-has-this==1", 'ruff==0; extra == "dev"')
    assert first(config).verdict == "ok"
    assert "torch 2." in first(config).text
    requires("torch==1.0.*", 'transformers==4; extra == "vllm"')
    assert first(config).verdict == "warn"
    assert "is not torch==1.0.*: pip install 'torch==1.0.*'" in first(config).text
    assert "is not transformers==4" in first(config).text


class Bucket:
    """An object store, as much of one as is looked at."""

    place = None

    def __init__(self, root: str, *, write: bool) -> None:
        assert not write
        self.broken = "broken" in root

    def list(self, kind: str, damaged: Any) -> Iterator[None]:
        if self.broken:
            raise StoreError("there is no such bucket")
        yield None


def test_an_object_store_is_asked_and_not_written(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(root: str) -> Finding:
        found = examine(config(store=root), load=False)
        return next(finding for finding in found if finding.name == "store")

    assert store("memory://here").verdict == "fail"
    assert "expected a folder or a URL that starts with" in store("memory://here").text
    monkeypatch.setattr("tip.pipeline.doctor.machine.Store", Bucket)
    assert store("s3://whole").text.startswith("s3://whole can be read; whether it can be written")
    assert store("s3://broken") == Finding("fail", "store", "there is no such bucket")
