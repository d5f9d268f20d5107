"""Where a model lies: a folder of the user's, or the cache that the hub's client keeps."""

import json
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from ...storage.files import user_path
from ..boundary import one_line
from .fingerprint import weight_files
from .settings import ModelSettings

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors",)
_CODE = ("*.py",)


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
        raise ModelError(f"{settings.model}: no such model folder (and not an owner/name)")
    return _download(settings, weights=weights)


def _download(settings: ModelSettings, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download  # heavy, rarely needed

    patterns = [*_SMALL]
    patterns += _WEIGHTS if weights else ()
    patterns += _CODE if settings.trust_remote_code else ()
    try:
        return Path(
            snapshot_download(settings.model, revision=settings.revision, allow_patterns=patterns)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{settings.model}: neither a local folder nor to be had from the hub "
            f"({first_line(error)}); give the path of a model folder"
        ) from error


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
