"""How signals lie in a folder that others read: an index, a manifest and a file an artifact.

<folder>/README.md                        the data card
<folder>/signals.json                     which run, which rounds, which artifacts; sealed
<folder>/manifests/<kind>/<key>.json      as in a store, sealed
<folder>/data/<kind>/<key>.parquet        as in a store, to the byte
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...storage.errors import StoreError
from ...storage.keys import key_of

INDEX = "signals.json"
FORMAT = 1
Key = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Kind = Literal["rollouts", "teacher", "tokens"]
KINDS: tuple[Kind, ...] = ("rollouts", "teacher", "tokens")
"""What is shared, each after what it was made from."""


class Model(BaseModel):
    """A model whose numbers these are."""

    role: str
    name: str
    hub: str | None
    revision: str | None
    fingerprint: str | None
    license: str | None


class Index(BaseModel):
    """What a folder of signals holds, and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    format: Annotated[int, Field(ge=1, le=FORMAT)]
    run: str
    run_id: str | None
    config: dict[str, Any]
    """As TOML would have it, without secrets."""
    content: dict[str, str]
    """Digests of what the config names: models, prompts, rule."""
    models: list[Model]
    rounds: dict[int, dict[Kind, list[Key]]]
    """Keys by round and kind."""
    manifests: dict[Kind, dict[Key, Hash]]
    """sha256 of each manifest's bytes."""

    def write(self, folder: Path) -> None:
        """Write the index."""
        values = self.model_dump(mode="json")
        text = json.dumps(values | {"seal": key_of(values)}, indent=1, sort_keys=True)
        (folder / INDEX).write_text(f"{text}\n", encoding="utf-8")


def read_index(folder: Path) -> Index:
    """Return the index of a folder. Raises `StoreError` where it is none, or damaged."""
    path = folder / INDEX
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("seal", None) != key_of(values):
            raise ValueError("its seal does not fit what it says")
        return Index.model_validate(values)
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder}: no {INDEX}; expected a folder that tip cache export wrote, or a copy of one"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise StoreError(f"{path}: {where}: {first['msg']}; copy the folder again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: damaged ({error}); copy the folder again") from error


def manifest_path(folder: Path, kind: str, key: str) -> Path:
    """Return where an artifact's manifest lies."""
    return folder / "manifests" / kind / f"{key}.json"


def data_path(folder: Path, kind: str, key: str) -> Path:
    """Return where an artifact's table lies."""
    return folder / "data" / kind / f"{key}.parquet"
