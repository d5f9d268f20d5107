"""A model in memory as a load in another type gives it, without the load."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from .attention import attention_of
from .language_model import LanguageModel
from .load import load_on_meta


def recast(model: LanguageModel, dtype: torch.dtype) -> LanguageModel | None:
    """Return a model, loaded in float32, with the very bits of a load of its folder in a type.

    Parameters are rounded in place, one after the other. None, and nothing has changed, where a
    load would differ in more than that: a buffer in another type, whose numbers may have been
    computed in it, or another attention.
    """
    if dtype == model.dtype:
        return model
    loaded = load_on_meta(model.card, dtype)  # headers alone are read
    ways = {attention_of(model.model.config, model.card, each) for each in (model.dtype, dtype)}
    if _types(model.model.named_buffers()) != _types(loaded.named_buffers()) or len(ways) > 1:
        return None
    parameters, wanted = dict(model.model.named_parameters()), _types(loaded.named_parameters())
    if parameters.keys() != wanted.keys():
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.data = parameter.data.to(wanted[name])
    for module in model.model.modules():
        if hasattr(module, "config"):
            module.config.dtype = dtype
    return replace(model, dtype=dtype)


def _types(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in tensors}
