"""Models split into what the pipeline needs of them: a body, a head, a tokenizer, a fingerprint.

A body turns token ids into hidden states; the head turns hidden states into logits, a chunk at a
time. At load `head_check.py` shows that head(body(x)) is what the whole model computes, so nothing
later has to wonder.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...storage.errors import ModelError
from ..boundary import one_line
from .alone_check import check_alone
from .attention import attention_of
from .card import ModelCard
from .code import own_class
from .config import load_config
from .cpu.attention import NAME as BY_PRODUCTS
from .cpu.attention import use_products_in_attention
from .fingerprint import has_weights, weight_files
from .head_check import check_head
from .language_model import LanguageModel
from .quantised import quantised_by
from .quiet import quiet


def load_model(
    card: ModelCard, device: torch.device, dtype: torch.dtype, *, attention: str = "sdpa"
) -> LanguageModel:
    """Load a model in evaluation mode and show on known tokens that head(body(x)) = model(x).

    attention: name of transformers' implementation, as `cpu/process.py` gives it, for a model of
    which a user asks for none: `sdpa`, or eager where a model has none or sdpa leaves something
    out. Nothing of the process is changed.

    Raises `ModelError` for a folder without safetensors, weights that are missing, of another shape
    than the config says or unknown to the architecture, an architecture that needs its own code, or
    logits that are not those of its head, or that change with what follows.
    """
    weight_files(card.folder)
    model = _from_folder(card, dtype)
    model.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        _own_memory(model)
    free = card.attention == "auto" and attention_of(model.config, card, dtype) is None
    if attention == BY_PRODUCTS and free:
        with quiet():
            use_products_in_attention(model)
    loaded = LanguageModel(model, card, device, dtype)
    with one_line(lambda reason: _unusable(card, reason)):  # a class may want other inputs than ids
        if quantised_by(card) is not None:
            _whole_pass(loaded)
        check_head(loaded)
        check_alone(loaded)
    return loaded


@torch.inference_mode()
def _whole_pass(model: LanguageModel) -> None:
    """Let the whole model read a token: compressed-tensors unpacks weights in its first pass.

    That of a body alone would be the first otherwise, which no hook sees.
    """
    with quiet():
        model.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device))


def load_on_meta(card: ModelCard, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model on torch's device `meta`, without its weights: classes, modules and shapes.

    Where weights are here, their headers are read and no more. Raises `ModelError` as `load_model`
    does for all that needs no numbers: an architecture that is not known, or cannot be made of its
    config; tensors that are missing, of another shape, or of no part of the model.
    """
    if has_weights(card.folder):
        return _from_folder(card, dtype, device_map="meta")
    config = load_config(card.folder, card.code)
    with one_line(lambda reason: _unusable(card, reason)), quiet(), torch.device("meta"):
        return _class_of(config).from_config(
            config, trust_remote_code=card.code, **_attention(config, card, dtype)
        )


def _from_folder(card: ModelCard, dtype: torch.dtype, **given: Any) -> Any:
    """Return the model of a folder, after showing that all it has comes from there."""
    config = load_config(card.folder, card.code)
    kind, given = _class_of(config), given | _attention(config, card, dtype)
    with one_line(lambda reason: _unusable(card, reason)), quiet():
        if card.code and (own := own_class(card.folder)) is not None:
            kind, given["config"] = own, config
        model, report = kind.from_pretrained(
            card.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=card.code,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **given,
        )
    _refuse_partial(card.folder, report)
    return model


def _attention(config: Any, card: ModelCard, dtype: torch.dtype) -> dict[str, str]:
    wanted = attention_of(config, card, dtype)
    return {} if wanted is None else {"attn_implementation": wanted}


def _unusable(card: ModelCard, reason: str) -> ModelError:
    return ModelError(f"{card.folder}: the model does not load ({reason})")


def _class_of(config: Any) -> Any:
    """Return transformers' auto class that makes of a folder what its config says that it is.

    What reads more than text stays whole, so that its export is one, too: the mapping of causal
    language models has the text model alone of some kinds, and of others nothing.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM  # heavy
    from transformers.models.auto import modeling_auto as names

    whole = names.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type)
    text = names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if whole is not None and (text is None or whole in (config.architectures or ())):
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM


def _own_memory(model: torch.nn.Module) -> None:
    """Copy weights that are views (of the mapped file, of others) into memory of their own.

    Matrix products of the same numbers round differently when their memory is aligned differently,
    and a file puts them anywhere: a result would depend on the length of a file's header. Training
    would write into views of a file that may be replaced.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        memory = tensor.untyped_storage()
        if memory.nbytes() != tensor.nbytes or not memory.resizable():  # a file's is not
            tensor.data = tensor.data.clone()


# Tensors of older versions that are computed, not learned: nothing is lost without them.
_HARMLESS = re.compile(r"(rotary_emb\.inv_freq|attn\.masked_bias|attention\.masked_bias)$")


def _refuse_partial(folder: Path, report: dict[str, Any]) -> None:
    """Raise `ModelError` where the files do not give what the model has, or give more.

    transformers makes up what is missing and drops the rest: another model would be trained.
    """
    wrong = {name: "missing" for name in sorted(report["missing_keys"])}
    for name, stored, made in sorted(report["mismatched_keys"]):
        wrong[name] = f"of another shape ({_shape(stored)}, where its config says {_shape(made)})"
    more = [name for name in sorted(report["unexpected_keys"]) if not _HARMLESS.search(name)]
    wrong |= {name: "in the files, and no part of such a model" for name in more}
    if wrong:
        name, what = next(iter(wrong.items()))
        raise ModelError(
            f"{folder}: its weights are not those of its config.json: {name} is {what} "
            f"({len(wrong)} such tensors); copy the folder again"
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
