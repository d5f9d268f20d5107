"""A trained student as a Hugging Face model folder, and the proof that it is that student.

The weights are what `save_pretrained` writes: under the names of the model's family, with the
buffers that belong to a model (a router's bias). An export is read back: what it holds and computes
must be what the student, rounded to the export's type, holds and computes.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...storage.errors import ModelError
from ...storage.store.places import check_name
from ...storage.store.store import Draft
from ..models.folder import SMALL_FILES
from ..models.language_model import LanguageModel
from ..models.quiet import quiet
from ..models.tensors import system_errors, tensor_hashes

_JUST_BEYOND = 1.01  # times the largest number of a type: float32's, in bfloat16, as masks have it
_TOLERANCE = 1e-5  # of logits, relative to the largest: the same numbers in other places of memory


def refuse_beyond(model: LanguageModel, dtype: str) -> None:
    """Raise `ModelError` for a student with a weight that an export in this type could not hold.

    Asked before a training, whose work would be lost, and again of what it has made.
    """
    most = torch.finfo(getattr(torch, dtype)).max
    for name, parameter in model.model.named_parameters():
        largest = parameter.detach().abs().amax().item()
        if largest > _JUST_BEYOND * most:
            raise ModelError(
                f"{model.card.folder}: {name} holds {largest:.3g}, and {dtype} at most {most:.3g}: "
                "choose bfloat16 or float32 (train.export_dtype, or --dtype of tip export)"
            )


def export(model: LanguageModel, draft: Draft, dtype: str) -> None:
    """Write a Hugging Face model folder: weights in `dtype`, config, tokenizer.

    The parameters are rounded to that type where they are, none to infinity. Buffers, which nothing
    trains, keep their own. Tied weights are written once. Raises `ModelError` for a weight that has
    grown beyond the type.
    """
    refuse_beyond(model, dtype)
    _round(model, getattr(torch, dtype))
    _write_weights(model, draft.folder, getattr(torch, dtype))
    config = json.loads((model.card.folder / "config.json").read_text())
    for field in ("torch_dtype", "quantization_config"):
        config.pop(field, None)
    config["dtype"] = dtype
    draft.file("config.json").write_text(json.dumps(config, indent=2))
    kept = {*SMALL_FILES, *([".py"] if model.card.code else [])}
    for path in sorted(model.card.folder.iterdir()):
        known = path.suffix in kept and path.name != "config.json" and "index" not in path.name
        if known and path.is_file() and _is_name(path.name):
            draft.file(path.name).write_bytes(path.read_bytes())


@dataclass(frozen=True)
class Likeness:
    """What a model in float32 is known again by.

    tensors: hash of each parameter and persistent buffer. logits: [12, V] of known tokens.
    """

    tensors: dict[str, str]
    logits: Tensor


def likeness(model: LanguageModel) -> Likeness:
    """Return the likeness of a model that computes in float32."""
    ids = torch.arange(12, device=model.device).reshape(2, 6) % min(model.vocabulary, 1000)
    with torch.inference_mode():
        logits = model.model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
    tensors = model.model.state_dict()
    return Likeness(tensor_hashes(tensors, tensors.__getitem__), logits.cpu())


def difference(trained: Likeness, found: Likeness) -> float:
    """Return the largest difference of logits between a student and its export, read back.

    Raises `ModelError` where the export is another model.
    """
    wrong = sorted(
        name
        for name in trained.tensors.keys() | found.tensors.keys()
        if trained.tensors.get(name) != found.tensors.get(name)
    )
    if wrong:
        raise _another_model(f"{wrong[0]} differs ({len(wrong)} such tensors)")
    gap = (trained.logits - found.logits).abs().amax().item()
    if not gap <= _TOLERANCE * max(1.0, trained.logits.abs().amax().item()):
        raise _another_model(f"its logits differ by {gap:.2e}")
    return gap


def _another_model(reason: str) -> ModelError:
    return ModelError(
        f"the trained student cannot be exported: what was written is another model ({reason})"
    )


def _round(model: LanguageModel, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.clamp(-most, most).to(dtype))


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
