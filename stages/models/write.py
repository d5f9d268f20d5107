"""A model in memory as a Hugging Face model folder.

The weights are what `save_pretrained` writes: under the names of the model's family, with the
buffers that belong to a model (a router's bias). What lies beside them is copied.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from ...storage.store.places import check_name
from ...storage.store.store import Draft
from .card import ModelCard
from .folder import ADAPTER_CONFIG, SMALL_FILES
from .language_model import LanguageModel
from .quiet import quiet
from .tensors import system_errors

# Files of a tokenizer, whatever its kind: those of two are never mixed.
_OF_TOKENIZER = re.compile(r"token|vocab|merges|template|\.model$|\.jinja$|\.txt$")


def write_model(model: LanguageModel, draft: Draft, dtype: str) -> None:
    """Write a model folder: parameters in a type that holds them, buffers in their own, and the
    files that the model's card names. Tied weights are written once.
    """
    _write_weights(model, draft.folder, getattr(torch, dtype))
    config = json.loads((model.card.folder / "config.json").read_text())
    for field in ("torch_dtype", "quantization_config"):
        config.pop(field, None)
    config["dtype"] = dtype
    draft.file("config.json").write_text(json.dumps(config, indent=2))
    for path in small_files(model.card):
        draft.file(path.name).write_bytes(path.read_bytes())


def small_files(card: ModelCard) -> list[Path]:
    """Return what belongs to a model beside its weights and its config.json.

    Of an adapter's model each file is the adapter's own, else the base's.
    """
    if card.adapter is None:
        return list(_small(card.folder, code=card.code).values())
    theirs = _small(card.adapter.base, code=card.code)
    if card.vocabulary_folder == card.adapter.folder:
        theirs = {n: path for n, path in theirs.items() if not _OF_TOKENIZER.search(n)}
    found = theirs | _small(card.adapter.folder, code=card.code)
    return [found[name] for name in sorted(found)]


def _small(folder: Path, *, code: bool) -> dict[str, Path]:
    kept = {*SMALL_FILES, *([".py"] if code else [])}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix in kept
        and path.name not in ("config.json", ADAPTER_CONFIG)
        and "index" not in path.name
        and path.is_file()
        and _is_name(path.name)
    }


def _write_weights(model: LanguageModel, folder: Path, dtype: torch.dtype) -> None:
    """Let transformers write the weights, and them alone, into a folder."""
    from transformers import GenerationConfig  # heavy

    cast: dict[int, Tensor] = {}  # once for each parameter, so that tied ones are seen to be tied
    tensors: dict[str, Tensor] = {}
    for name, value in model.model.state_dict(keep_vars=True).items():
        trained = isinstance(value, torch.nn.Parameter) and value.is_floating_point()
        as_written = value.detach().to(dtype) if trained else value.detach()
        tensors[name] = cast.setdefault(id(value), as_written)
    beside = folder / "save_pretrained"
    model.model.generation_config = GenerationConfig()  # the file is kept as it is, right or not
    with system_errors(folder), quiet():
        model.model.save_pretrained(beside, state_dict=tensors)
    for path in sorted(beside.glob("model*.safetensors*")):
        path.rename(folder / path.name)
    shutil.rmtree(beside)


def _is_name(name: str) -> bool:
    """Tell whether a store has files of this name; others were put beside a model by hand."""
    try:
        check_name(name)
    except ValueError:
        return False
    return True
