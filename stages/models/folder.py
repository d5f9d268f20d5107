"""Where a model lies: a folder of the user's, or the cache that the hub's client keeps."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from ...storage.files import user_path
from ..boundary import one_line
from .fingerprint import INDEX, WHOLE, indexed_names, weight_files
from .settings import ModelSettings

SMALL_FILES = (".json", ".txt", ".model", ".tiktoken", ".jinja")
"""Endings of what a model has beside its weights: configs, vocabularies, templates."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What peft calls the two files of an adapter."""

_CODE = ("*.py",)
_FOLDERS = "*/*"  # other formats (onnx/, original/): nothing in them is read


def model_folder(settings: ModelSettings, *, weights: bool = True) -> Path:
    """Return the local folder of a model, fetching a Hugging Face name into its cache.

    weights: whether they are needed; else of a hub name only the small files are fetched, and code
    where it may be run.
    """
    folder = user_path(settings.model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder")
        if weights:
            weight_files(folder)
        return folder
    if folder.is_absolute() or settings.model.startswith(".") or settings.model.count("/") != 1:
        raise ModelError(
            f"{settings.model}: no such model folder (and not an owner/name): check the path"
        )
    return _download(settings, weights=weights)


def _download(settings: ModelSettings, *, weights: bool) -> Path:
    code = _CODE if settings.trust_remote_code else ()
    with _from_hub(settings):
        small = [f"*{ending}" for ending in SMALL_FILES]
        folder = _fetch(settings.model, settings.revision, [*small, *code])
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{settings.model}: an adapter on the hub; fetch it into a folder (hf download "
            f"{settings.model} --local-dir FOLDER), and name that folder"
        )
    _require(settings, folder, ["config.json"])
    if not weights:
        return folder
    index = folder / INDEX
    _add(settings, folder, [WHOLE])
    if not (folder / WHOLE).is_file() and index.is_file():
        _add(settings, folder, indexed_names(index))
        _require(settings, folder, indexed_names(index))
    _require(settings, folder, [] if index.is_file() else [WHOLE])
    weight_files(folder)
    return folder


def _add(settings: ModelSettings, folder: Path, names: list[str]) -> None:
    """Fetch further files of the same commit (a branch may move), as far as the hub gives them."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _from_hub(settings), contextlib.suppress(LocalEntryNotFoundError):
        _fetch(settings.model, folder.name, names)  # without a hub, what is missing is named later


def _fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch files of a hub name that are not in the hub's cache yet, and return their folder."""
    from huggingface_hub import snapshot_download  # heavy, rarely needed

    return Path(
        snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_FOLDERS
        )
    )


@contextlib.contextmanager
def _from_hub(settings: ModelSettings) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{settings.model}: neither a local folder nor to be had from the hub "
            f"({first_line(error)}); give the path of a model folder"
        ) from error


def _require(settings: ModelSettings, folder: Path, names: list[str]) -> None:
    """Raise `ModelError` where the cache lacks files and the hub cannot be asked for them.

    Without the hub its client gives what there is, as if it were whole. Files that the hub itself
    lacks are another matter, and said by who reads them.
    """
    from huggingface_hub import list_repo_files

    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return

    def refused(reason: str) -> ModelError:
        return ModelError(
            f"{settings.model}: the hub's cache {folder} has no {missing[0]}, and the hub cannot "
            f"be asked for it ({reason}); start once with the hub in reach and HF_HUB_OFFLINE unset"
        )

    with one_line(refused):
        list_repo_files(settings.model, revision=folder.name)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder."""
    with one_line(lambda reason: ModelError(f"{path}: not JSON ({reason})")):
        value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
