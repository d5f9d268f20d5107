"""The content fingerprint of a model folder: what a cache key knows of a model.

The same weights give the same fingerprint whether they come from a hub or a folder, in one file
or in many. In it: tensor names, dtypes, shapes and bytes; config fields that change what the model
computes; the id -> token map. Not in it: paths, times, library versions, file layout.
"""

import contextlib
import hashlib
import json
import mmap
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ...storage.errors import ModelError
from ...storage.keys import canonical, key_of
from .code import code_hashes

# Fields that describe the file or its history, not the function it computes. The weights say
# their own dtype; fields that start with _ are transformers' notes to itself.
_IGNORED_CONFIG = frozenset(
    {"transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}
)
_hashed: dict[str, str] = {}  # what this process hashed, also where no file can be written
WHOLE, INDEX, _SUFFIX = "model.safetensors", "model.safetensors.index.json", ".safetensors"
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it


def model_fingerprint(
    folder: Path,
    vocabulary: dict[str, int],
    declared: dict[str, Any] | None = None,
    *,
    code: bool = False,
    look: bool = False,
    remember: bool = True,
) -> str:
    """Return the fingerprint of the weights, config and vocabulary in a folder.

    vocabulary: token -> id. declared: what stands for weights that lie elsewhere. code: Python code
    in the folder is run, so it counts. look: hash no weights; the fingerprint is empty where it is
    not remembered. remember: the digest of these weights, for the next process. Raises `ModelError`
    when there are no safetensors weights and none are declared.
    """
    weights: Any = declared
    if weights is None:
        weights = (
            known_digest(folder) if look else digest_of(weight_files(folder), remember=remember)
        )
        if weights is None:
            return ""
    config = json.loads((folder / "config.json").read_text())
    parts = {
        "weights": weights,
        "config": {k: v for k, v in config.items() if _matters(k)},
        "vocabulary": key_of(sorted(vocabulary.items())),
    }
    if code and (hashes := code_hashes(folder)):
        parts["code"] = hashes
    try:
        return key_of(parts)
    except ValueError as error:
        raise ModelError(
            f"{folder / 'config.json'}: holds NaN or infinity; expected finite numbers"
        ) from error


def _matters(field: str) -> bool:
    return field not in _IGNORED_CONFIG and not field.startswith("_")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a model is loaded from, and no others.

    As transformers has it: `model.safetensors`, else those that the index beside it names. Raises
    `ModelError` saying how to get some, and for an index that names other kinds or other folders.
    """
    one, index = folder / WHOLE, folder / INDEX
    if one.is_file():
        return [one]
    if index.is_file():
        return _indexed(index)
    others = sorted(
        p.name for kind in ("*.safetensors", "*.bin", "*.gguf") for p in folder.glob(kind)
    )
    found = f" (found {', '.join(others[:5])})" if others else ""
    raise ModelError(
        f"{folder}: no *.safetensors weights{found}; expected a folder written by "
        f"save_pretrained(), with model.safetensors or {INDEX}. Other formats are not read: "
        "convert them first"
    )


def has_weights(folder: Path) -> bool:
    """Tell whether a model could be loaded from a folder: of a name on the hub they come later."""
    try:
        return bool(weight_files(folder))
    except ModelError:
        return False


def _indexed(index: Path) -> list[Path]:
    """Return the files that an index names. Raises `ModelError` where one is not there."""
    files = [index.parent / name for name in indexed_names(index)]
    if gone := [path.name for path in files if not path.is_file()]:
        raise ModelError(f"{index}: names {gone[0]}, which is not there; copy the folder again")
    return files


def indexed_names(index: Path) -> list[str]:
    """Return the names that an index gives; it is read as something a stranger wrote."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        wrong = next((n for n in names if Path(n).name != n or not n.endswith(_SUFFIX)), None)
        _ = [(index.parent / name).is_file() for name in names]  # one may be too long for a file
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weights; copy the folder again") from error
    if wrong is not None or not names:
        raise ModelError(
            f"{index}: names {wrong!r}; expected *{_SUFFIX} files of this folder alone"
        )
    return names


def _memo(files: list[Path]) -> Path:
    """Return where the digest of these files is remembered, by path, size and time."""
    stamp = tuple((str(f.resolve()), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files)
    return _memo_folder() / key_of(stamp)


def known_digest(folder: Path) -> str | None:
    """Return the digest of a folder's weights, None where they were never hashed here."""
    try:
        return _remembered(weight_files(folder))
    except ModelError:
        return None


def digest_of(files: list[Path], *, remember: bool = True) -> str:
    """Return the digest of all tensors in safetensors files: names, types, shapes, bytes.

    remember: it, for the next process. Raises `ModelError` for a file that is not whole.
    """
    remembered = _remembered(files) if remember else None
    if remembered is not None:
        return remembered
    memo = _memo(files)
    tensors = sorted(t for file in files for t in _tensor_hashes(file))
    digest = hashlib.sha256(canonical(tensors).encode()).hexdigest()
    if not remember:
        return digest
    _hashed[memo.name] = digest
    with contextlib.suppress(OSError):  # a memory aid: a read-only home costs time, nothing else
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(f"{digest} {key_of([memo.name, digest])}")  # cut by a kill, it is not read
    return digest


def _remembered(files: list[Path]) -> str | None:
    """Return the digest of files that were hashed before; nothing is written."""
    memo = _memo(files)
    if memo.name in _hashed:
        return _hashed[memo.name]
    with contextlib.suppress(OSError):
        digest, _, seal = memo.read_text("ascii", "replace").partition(" ")
        if seal == key_of([memo.name, digest]):  # another digest would be another model
            return digest
    return None


def _memo_folder() -> Path:
    """Return where weights already hashed are remembered."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tip" / "fingerprints"


def _tensor_hashes(path: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """Yield (name, dtype, shape, sha256 of the bytes) of each tensor, read through a memory map.

    Source: the safetensors format: eight bytes of header length, a JSON header, raw tensors.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        tensors = _header(path, file, size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            for name, dtype, shape, start, stop in tensors:
                if stop > size:
                    raise ModelError(f"{path}: cut short inside tensor {name}; copy it again")
                yield name, dtype, shape, hashlib.sha256(view[start:stop]).hexdigest()


def _header(path: Path, file: BinaryIO, size: int) -> list[tuple[str, str, list[int], int, int]]:
    """Return name, dtype, shape and the borders in the file of each tensor."""
    body = 8 + int.from_bytes(file.read(8), "little")
    if not 8 < body <= min(size, 8 + _LONGEST_HEADER):
        raise ModelError(f"{path}: not a whole safetensors file (no full header); copy it again")
    tensors = []
    try:
        for name, about in json.loads(file.read(body - 8)).items():
            if name != "__metadata__":
                start, stop = map(operator.index, about["data_offsets"])
                dtype, shape = about["dtype"], about["shape"]
                canonical([dtype, shape])
                tensors.append((name, dtype, shape, body + start, body + stop))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a safetensors file (unreadable header)") from error
    if not tensors:
        raise ModelError(f"{path}: holds no tensor; expected the weights of a model")
    return tensors
