"""What a stage commits: an artifact, its parts, and the manifest that says so.

A manifest is read as something a stranger wrote: names, numbers and hashes are checked before
any of them is used, and none of them can name a place outside the artifact's own folder.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from ..content import content_hash
from ..errors import NumericsError, StoreError
from ..keys import canonical, key_of
from ..tables import read_table
from .places import check_key, check_kind, check_name

FORMAT = 2  # of the manifest; a reader refuses a later one. 1 has no seal and no digests

_Name = Annotated[str, AfterValidator(check_name)]
_Count = Annotated[int, Field(ge=0)]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Part:
    """One committed file: `content` hashes a table's logical rows, or another file's bytes."""

    name: _Name
    file: _Name
    """Name in the artifact's folder: the draft, then the name the writer chose."""
    bytes: _Count
    rows: _Count | None
    """Rows of a table; None for another file."""
    content: _Hash
    digest: _Hash | None = None
    """sha256 of the file's bytes; None where an older version wrote it."""


@dataclass(frozen=True)
class Artifact:
    """What a stage made: `inputs` decide the key, `facts` (times, versions, counts) do not."""

    kind: Annotated[str, AfterValidator(check_kind)]
    key: Annotated[str, AfterValidator(check_key)]
    inputs: dict[str, Any]
    facts: dict[str, Any]
    parts: dict[str, Part]
    content: _Hash
    """Hash over the parts' names and contents: equal in whatever store they were made."""
    draft: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """Unique name of the folder that holds the parts."""
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    seal: _Hash | None = None
    """Hash over all of the above; None where an older version wrote it."""

    @property
    def bytes(self) -> int:
        """Size of all parts on the disk."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def rows(self) -> int:
        """Rows of all parts that are tables."""
        return sum(part.rows or 0 for part in self.parts.values())


_ARTIFACT = TypeAdapter(Artifact)


def artifact_key(kind: str, inputs: dict[str, Any]) -> str:
    """Return the key of the artifact that a kind and its inputs determine."""
    return key_of(inputs | {"kind": kind})


def contents_hash(parts: dict[str, Part]) -> str:
    """Return the content hash of an artifact with these parts."""
    return sha256(
        canonical({name: part.content for name, part in parts.items()}).encode()
    ).hexdigest()


def manifest(artifact: Artifact) -> bytes:
    """Return the text that makes an artifact exist.

    Raises `NumericsError` if its facts hold NaN or infinity, which JSON cannot write.
    """
    try:
        values = json.loads(json.dumps(asdict(artifact), allow_nan=False))
    except ValueError as error:
        raise NumericsError(
            f"facts of {artifact.kind} {artifact.key} hold NaN or infinity: {artifact.facts}"
        ) from error
    text = json.dumps(values | {"seal": _seal(values)}, indent=1, sort_keys=True)
    return f"{text}\n".encode()


def _seal(values: dict[str, Any]) -> str:
    """Return the hash over all of a manifest but the seal itself."""
    rest = {name: value for name, value in values.items() if name != "seal"}
    return sha256(canonical(rest).encode()).hexdigest()


def read_manifest(data: bytes, kind: str, key: str) -> Artifact:
    """Return the artifact of a manifest found under a kind and a key.

    Raises `ValueError`, in one line, for whatever no writer of manifests would have written.
    """
    try:
        artifact = _ARTIFACT.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
    if artifact.format > 1 and artifact.seal != _seal(json.loads(data)):
        raise ValueError("its seal does not fit what it says")
    if (artifact.kind, artifact.key) != (kind, key):
        raise ValueError(f"it describes {artifact.kind} {artifact.key}")
    if artifact_key(kind, artifact.inputs) != key:
        raise ValueError("its inputs do not have its key")
    for name, part in artifact.parts.items():
        if part.name != name or not part.file.startswith(f"{artifact.draft}/"):
            raise ValueError(f"part {name!r}: its names do not fit together")
    if contents_hash(artifact.parts) != artifact.content:
        raise ValueError("its content is not that of its parts")
    return artifact


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def damage(path: Path, part: Part) -> str | None:
    """Say in words how a file differs from what was committed, or return None.

    Every byte counts: what one reader of a table passes over, such as the statistics beside its
    pages, another one believes.
    """
    try:
        size = path.stat().st_size
        if size != part.bytes:
            return f"it has {size} bytes, {part.bytes} were committed"
        if part.digest is not None:
            whole = file_hash(path) == part.digest
        elif part.rows is None:
            whole = file_hash(path) == part.content
        else:
            whole = content_hash(read_table([path])) == part.content
    except StoreError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return None if whole else "its bytes are not what was committed"
