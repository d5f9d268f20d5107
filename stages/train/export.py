"""A trained student as a Hugging Face model folder."""

import json

import torch

from ...storage.store.store import Draft
from ..models.language_model import LanguageModel
from ..models.tensors import write_tensors

# what a model folder holds beside weights
SMALL_FILES = {".json", ".txt", ".model", ".jinja"}


def export(model: LanguageModel, draft: Draft, dtype: str) -> None:
    """Write a Hugging Face model folder: weights in `dtype`, config, tokenizer.

    Tied weights are written once, under the name that the model keeps.
    """
    target = getattr(torch, dtype)
    tensors = {n: p.detach().to(target).contiguous() for n, p in model.model.named_parameters()}
    write_tensors(draft.file("model.safetensors"), tensors, {"format": "pt"})
    config = json.loads((model.card.folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    draft.file("config.json").write_text(json.dumps(config, indent=2))
    kept = SMALL_FILES | ({".py"} if model.card.code else set())
    for path in sorted(model.card.folder.iterdir()):
        if path.suffix in kept and path.name != "config.json" and "index" not in path.name:
            draft.file(path.name).write_bytes(path.read_bytes())
