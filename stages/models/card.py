"""What is known of a model without loading its weights: folder, tokenizer, fingerprint, sizes."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from .fingerprint import model_fingerprint, weight_files
from .settings import ModelSettings


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model without loading its weights.

    stop_ids: token ids that end a response. context: the longest sequence in tokens.
    """

    folder: Path
    tokenizer: Any
    fingerprint: str
    stop_ids: tuple[int, ...]
    head_rows: int
    context: int


def model_folder(settings: ModelSettings) -> Path:
    """Return the local folder of a model, fetching a Hugging Face name into its cache."""
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder")
        weight_files(folder)
        return folder
    if folder.is_absolute() or settings.model.startswith(".") or settings.model.count("/") != 1:
        raise ModelError(f"{settings.model}: no such model folder (and not an owner/name)")
    return _download(settings)


def _download(settings: ModelSettings) -> Path:
    from huggingface_hub import snapshot_download  # heavy, rarely needed

    try:
        return Path(
            snapshot_download(
                settings.model,
                revision=settings.revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{settings.model}: neither a local folder nor to be had from the hub "
            f"({first_line(error)}); give the path of a model folder"
        ) from error


def load_tokenizer(folder: Path, settings: ModelSettings) -> Any:
    """Return the tokenizer of a model folder."""
    from transformers import AutoTokenizer  # heavy

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                folder, trust_remote_code=settings.trust_remote_code
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no usable tokenizer ({first_line(error)})") from error


def read_card(settings: ModelSettings) -> ModelCard:
    """Return the card of a model: its folder, tokenizer, fingerprint, stop ids and sizes."""
    return card_of(model_folder(settings), settings)


def card_of(
    folder: Path, settings: ModelSettings, declared: dict[str, Any] | None = None
) -> ModelCard:
    """Return the card of a folder. declared: what stands for weights that are not there."""
    config = _read_json(folder / "config.json")
    if not isinstance(config.get("vocab_size"), int):
        raise ModelError(
            f"{folder / 'config.json'}: no vocab_size; expected the config of a language model "
            "that reads text alone"
        )
    tokenizer = load_tokenizer(folder, settings)
    return ModelCard(
        folder,
        tokenizer,
        model_fingerprint(folder, tokenizer.get_vocab(), declared),
        _stop_ids(folder, tokenizer, config),
        config["vocab_size"],
        int(config.get("max_position_embeddings") or 1 << 31),
    )


def _stop_ids(folder: Path, tokenizer: Any, config: dict[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a response: of the generation config, the config, the tokenizer."""
    found: set[int] = set()
    path = folder / "generation_config.json"
    sources = [_read_json(path).get("eos_token_id")] if path.is_file() else []
    sources += [config.get("eos_token_id"), tokenizer.eos_token_id]
    for ids in sources:
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return tuple(sorted(found))


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder."""
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' own bars and reports: the pipeline shows its own."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(level)
