"""What is known of a model without loading its weights: folder, tokenizer, fingerprint, sizes."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from ...storage.files import user_path
from ..boundary import one_line
from .adapter import Adapter, find_adapter
from .code import refuse_own_code
from .config import context_of, is_count, text_config
from .fingerprint import model_fingerprint
from .folder import model_folder, read_json
from .quiet import quiet
from .settings import ModelSettings

_MOST_IDS = 1 << 31  # ids are stored as int32


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model without loading its weights: a plain value.

    folder: of a checkpoint of the store only its name, see `Weights`. fingerprint: empty where
    looking found weights that were never hashed here. stop_ids: token ids that end a response.
    special_ids: those, and the special tokens of the tokenizer. context: the longest sequence in
    tokens. vocabulary_folder: where its tokenizer lies. code: whether its own Python code is run.
    flagged_ids: the special ids that have no role, such as that of BOS, only the tokenizer's flag.
    adapter: what is merged over a base before the model is there; folder then has its config.
    attention: the implementation that a user asks transformers for. first_id: what its family
    begins every text with, None where it does not depend on it.
    """

    folder: Path
    fingerprint: str
    stop_ids: tuple[int, ...]
    special_ids: tuple[int, ...]
    head_rows: int
    context: int
    vocabulary_folder: Path
    code: bool = False
    flagged_ids: tuple[int, ...] = ()
    adapter: Adapter | None = None
    attention: str = "auto"
    first_id: int | None = None

    @property
    def weights_folder(self) -> Path:
        """Return where its weights lie, or those of its adapter's base."""
        return self.folder if self.adapter is None else self.adapter.base

    @property
    def tokenizer(self) -> Any:
        """Return its tokenizer, loaded once a process."""
        return load_tokenizer(self.vocabulary_folder, self.code)


def read_card(settings: ModelSettings) -> ModelCard:
    """Return the card of a model: its folder, tokenizer, fingerprint, stop ids and sizes."""
    if (adapter := find_adapter(settings)) is not None:
        return _adapted(adapter, settings)
    return card_of(model_folder(settings), settings)


def look_at_card(settings: ModelSettings) -> ModelCard:
    """Return the card of a model without hashing or downloading weights; nothing is written.

    The fingerprint is the remembered one. Of a model on the hub only the small files are fetched.
    """
    if (adapter := find_adapter(settings, look=True)) is not None:
        return _adapted(adapter, settings)
    return card_of(model_folder(settings, weights=False), settings, look=True)


def _adapted(adapter: Adapter, settings: ModelSettings) -> ModelCard:
    """Return the card of an adapter's merged model.

    Its fingerprint is made of the base and the adapter, and empty where the base was never hashed.
    """
    card = card_of(adapter.of("config.json"), settings, adapter.declared, adapter=adapter)
    return card if adapter.hashed else replace(card, fingerprint="")


def card_of(
    folder: Path,
    settings: ModelSettings,
    declared: dict[str, Any] | None = None,
    *,
    look: bool = False,
    adapter: Adapter | None = None,
) -> ModelCard:
    """Return the card of a folder.

    declared: what stands for weights that are not there. look: hash nothing. adapter: where other
    files than the config lie. Raises `ModelError` for a folder of the user's that is asked for a
    revision.
    """
    own_files = declared is None or adapter is not None
    if own_files and settings.revision is not None and user_path(settings.model).is_dir():
        raise ModelError(
            f"{settings.model}: a folder has no revision: drop revision = {settings.revision!r}, "
            "or give the model's name on the hub (owner/name)"
        )
    config = read_json(folder / "config.json")
    code = settings.trust_remote_code
    refuse_own_code(folder, config, trusted=code)
    own = config.get("text_config")  # a class has defaults for sizes, of a model of billions
    rows = (own if isinstance(own, dict) else config).get("vocab_size")
    if not is_count(rows):
        raise ModelError(
            f"{folder / 'config.json'}: no vocab_size; expected the config of a language model"
        )
    known = text_config(folder, code)
    words, generation = folder, folder
    if adapter is not None:
        words, generation = (
            adapter.of("tokenizer_config.json"),
            adapter.of("generation_config.json"),
        )
    tokenizer = load_tokenizer(words, code)
    with one_line(lambda reason: _no_tokenizer(words, reason)):
        stop_ids = _stop_ids(generation, tokenizer, config)
        special, vocabulary = {*tokenizer.all_special_ids, *stop_ids}, tokenizer.get_vocab()
        if None in special:
            raise ModelError(f"{words}: a special token of its tokenizer is not in the vocabulary")
        flagged = flagged_ids(tokenizer) - special
    return ModelCard(
        folder,
        model_fingerprint(folder, vocabulary, declared, code=code, look=look),
        stop_ids,
        tuple(sorted(special | flagged)),
        rows,
        context_of(known, folder / "config.json"),
        words,
        code,
        tuple(sorted(flagged)),
        adapter,
        settings.attn_implementation,
        _first_id(known),
    )


def _first_id(config: Any) -> int | None:
    """Return the BOS that a family's models break down without (Gemma's documentation says so)."""
    found = getattr(config, "bos_token_id", None)
    return found if config.model_type.startswith("gemma") and isinstance(found, int) else None


@functools.lru_cache(maxsize=8)
def load_tokenizer(folder: Path, code: bool) -> Any:
    """Return the tokenizer of a model folder. code: run Python code that comes with it."""
    from transformers import AutoTokenizer  # heavy

    with one_line(lambda reason: _no_tokenizer(folder, reason)), quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=code)


def flagged_ids(tokenizer: Any) -> set[int]:
    """Return the added tokens that a tokenizer flags as special, such as `<|start_header_id|>`.

    `all_special_ids` holds those with a role alone: 3 of the 17 of SmolLM2.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})  # tokenizers of their own code lack it
    return {int(i) for i, token in added.items() if getattr(token, "special", False)}


def _no_tokenizer(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder}: no usable tokenizer ({reason}); copy its tokenizer's files again, or update "
        "transformers and tokenizers if they are older than the files"
    )


def _stop_ids(folder: Path, tokenizer: Any, config: dict[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a response: of the generation config, the config, the tokenizer."""
    found: list[Any] = []
    path = folder / "generation_config.json"
    sources = [read_json(path).get("eos_token_id")] if path.is_file() else []
    sources += [config.get("eos_token_id"), tokenizer.eos_token_id]
    for ids in sources:
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    if wrong := [i for i in found if type(i) is not int or not 0 <= i < _MOST_IDS]:
        raise ModelError(f"{folder}: eos_token_id {wrong[0]!r} is no token id; expected numbers")
    return tuple(sorted({*found}))
