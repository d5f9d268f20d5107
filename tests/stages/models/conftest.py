"""A model folder, and a copy that a test may change."""

import shutil
from pathlib import Path

import pytest
from tiny import write_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "original")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a copy of the model that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))
