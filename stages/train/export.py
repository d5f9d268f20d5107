"""A trained student as a Hugging Face model folder, and the proof that it is that student.

An export is read back: what it holds and computes must be what the student, rounded to the export's
type, holds and computes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...storage.errors import ModelError
from ...storage.store.store import Draft
from ..models.language_model import LanguageModel
from ..models.tensors import tensor_hashes
from ..models.write import write_model

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

    The model's parameters are rounded to that type, none to infinity, in memory of their own: the
    training state that has the ones before may still be written. Buffers, which nothing trains,
    keep their type. Tied weights are written once. Raises `ModelError` for a weight that has
    grown beyond the type.
    """
    refuse_beyond(model, dtype)
    _round(model, getattr(torch, dtype))
    write_model(model, draft, dtype)


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
    if dtype == torch.float32:
        return
    most = torch.finfo(dtype).max
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.data = parameter.clamp(-most, most).to(dtype).to(parameter.dtype)
