"""Adapters merged over their bases, as model folders in the store: made once, when first needed.

Whoever computes with such a model loads a plain folder. It is float32: a merge that is rounded to
the base's 16 bits would lose part of what a small adapter adds.
"""

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ...storage.errors import ConfigError, ModelError
from ...storage.facts import MergedFacts
from ...storage.store.artifacts import Artifact, artifact_key
from ...storage.store.store import Draft, Store
from ..boundary import one_line
from .card import ModelCard
from .language_model import LanguageModel
from .load import load_model, load_on_meta
from .quiet import quiet
from .weights import Weights
from .write import small_files, write_model

VERSION = 1  # of what is merged
_NAME = "default"  # peft's name of the only adapter


def folder_of(store: Store, say: Callable[[str], None], weights: Weights) -> Path:
    """Return where the files of weights are on this host: made, or fetched, where they are not.

    say: tells a person what takes long.
    """
    if weights.checkpoint is not None:
        return store.folder(weights.checkpoint)
    card = weights.card
    if card.adapter is None:
        return card.folder

    def make(draft: Draft) -> dict[str, Any]:
        say(f"note: the {weights.role}'s adapter is merged over {card.weights_folder}, once")
        _merge(card, draft)
        return MergedFacts(fingerprint=card.fingerprint).dump()

    return store.folder(store.ensure("merged", _inputs(card), make)[0])


def find_merged(store: Store, card: ModelCard) -> Artifact | None:
    """Return an adapter's merged model, None where it was not made or the base never hashed."""
    if not card.fingerprint:
        return None
    return store.find("merged", artifact_key("merged", _inputs(card)))


def check_adapter(card: ModelCard) -> None:
    """Raise a `TipError` for an adapter that could not be merged; no number of the base is read."""
    assert card.adapter is not None
    _require_peft(card)
    model = load_on_meta(_base(card))
    rows = model.get_output_embeddings().weight.shape[0]
    if rows != card.head_rows:
        raise ModelError(
            f"{card.adapter.folder}: its config.json has {card.head_rows} ids, and its base "
            f"{card.adapter.base} has {rows}: name a base that was given the same ids"
        )
    _with_adapter(model, card)


def _require_peft(card: ModelCard) -> None:
    assert card.adapter is not None
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"{card.adapter.folder}: an adapter is merged by peft, which is not installed: "
            "pip install 'tip-opd[lora]', or name a whole model"
        )


def _inputs(card: ModelCard) -> dict[str, Any]:
    """Return what makes a merged folder: the weights' identity, and the files beside them."""
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in small_files(card)}
    return {"version": VERSION, "model": card.fingerprint, "files": hashes}


def _base(card: ModelCard) -> ModelCard:
    return replace(card, folder=card.weights_folder, adapter=None)


def _merge(card: ModelCard, draft: Draft) -> None:
    _require_peft(card)
    cpu = torch.device("cpu")  # the base may be larger in float32 than a device
    with_adapter = _with_adapter(load_model(_base(card), cpu, torch.float32).model, card)
    with _refused(card), quiet():
        model = with_adapter.merge_and_unload(safe_merge=True)
    write_model(LanguageModel(model, card, cpu, torch.float32), draft, "float32")


def _with_adapter(model: Any, card: ModelCard) -> Any:
    """Return peft's model of a base, with weights or on `meta`, and all of an adapter's tensors."""
    with quiet():
        from peft import PeftModel  # heavy, an extra

    assert card.adapter is not None
    folder = str(card.adapter.folder)
    _refuse_unknown(card)
    ends = [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e]
    tied = len({id(end.weight) for end in ends}) < len(ends)
    empty = next(model.parameters()).is_meta
    with _refused(card), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is refused here and below
        found = PeftModel.from_pretrained(model, folder, _NAME, low_cpu_mem_usage=empty)
        report = found.load_adapter(folder, _NAME, torch_device="cpu", low_cpu_mem_usage=empty)
    wrong = {name: "missing" for name in sorted(report.missing_keys)}
    wrong |= {name: "of no layer that its config names" for name in sorted(report.unexpected_keys)}
    if wrong:
        name, what = next(iter(wrong.items()))
        raise ModelError(
            f"{folder}: its weights are not those of its adapter_config.json: {name} is {what} "
            f"({len(wrong)} such tensors); copy the adapter again"
        )
    adapted = [e for e in ends if any(_is_lora_over(m, e) for m in found.modules())]
    if tied and adapted:
        raise ModelError(
            f"{folder}: its LoRA changes the embedding or the head, which are one tensor in its "
            f"base {card.adapter.base}, so that no folder holds both: merge it with what made it "
            "into a base whose two are apart (tie_word_embeddings = false), and name that folder"
        )
    return found


def _is_lora_over(module: Any, end: Any) -> bool:
    from peft.tuners.lora import LoraLayer  # heavy, an extra

    return isinstance(module, LoraLayer) and module.get_base_layer() is end


def _refuse_unknown(card: ModelCard) -> None:
    """Raise `ModelError` for an option that the peft that is here would leave out."""
    from peft import LoraConfig  # heavy, an extra

    assert card.adapter is not None
    known = {field.name for field in fields(LoraConfig)}
    used = json.loads(card.adapter.settings)
    if unknown := [name for name in used if name not in known]:
        raise ModelError(
            f"{card.adapter.folder}: adapter_config.json sets {unknown[0]}, which the installed "
            "peft does not know: pip install --upgrade peft"
        )


def _refused(card: ModelCard) -> Any:
    assert card.adapter is not None
    folder, base = card.adapter.folder, card.adapter.base
    return one_line(lambda reason: ModelError(f"{folder}: does not fit its base {base} ({reason})"))
