"""Model folders that a test spoils, and the one line that they are refused with."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import load
from tip.storage.errors import ModelError


def change_config(folder: Path, **fields: Any) -> None:
    """Set fields of the config in a model folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder: Path) -> str:
    """Return the one line that loading the folder is refused with."""
    with pytest.raises(ModelError) as it:
        load(folder)
    assert "\n" not in str(it.value)
    assert str(folder) in str(it.value)
    return str(it.value)
