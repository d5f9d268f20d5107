"""Models split into what the pipeline needs of them: a body, a head, a tokenizer, a fingerprint.

A body turns token ids into hidden states; the head turns hidden states into logits, a chunk at a
time. At load it is shown on a probe that head(body(x)) is what the whole model computes (a model
with soft-capping or scaled logits is refused), so nothing later has to wonder.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage.errors import ConfigError, ModelError
from .attention import use_products_in_attention
from .fingerprint import model_fingerprint, weight_files
from .heap import keep_freed_memory
from .loss import Head
from .products import use_faster_products
from .settings import ModelSettings

PROBE_TOLERANCE = 1e-3  # relative to the logits' spread; scales and soft-caps differ by percents
PROBE_SPREAD = 100.0  # the probe's logits are brought up to this, beyond the usual soft-caps


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


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in memory, ready for use."""

    model: Any
    card: ModelCard
    device: torch.device
    dtype: torch.dtype

    @property
    def head(self) -> Head:
        """Return the LM head (shared with the embedding where the model ties them)."""
        module = self.model.get_output_embeddings()
        return Head(module.weight, module.bias)

    @property
    def vocabulary(self) -> int:
        """Return the number of ids the head knows."""
        return self.model.get_output_embeddings().weight.shape[0]

    def hidden(self, ids: Tensor, **kwargs: Any) -> Tensor:
        """Return hidden states [B, T, D] of ids [B, T]; extra arguments go to the body."""
        kwargs.setdefault("use_cache", False)
        return self.model.base_model(input_ids=ids, **kwargs).last_hidden_state


def resolve_device(name: str) -> torch.device:
    """Return the device of `auto`, `cpu`, `cuda` or `cuda:N`; refuse one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N")
    device, gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        seen = f"{gpus} are" if gpus else "no GPU is"
        raise ConfigError(f"device = {name!r}: {seen} visible here; use device = 'auto' or 'cpu'")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a torch type; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


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
            f"({_reason(error)}); give the path of a model folder"
        ) from error


def load_tokenizer(folder: Path, settings: ModelSettings) -> Any:
    """Return the tokenizer of a model folder."""
    from transformers import AutoTokenizer  # heavy

    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                folder, trust_remote_code=settings.trust_remote_code
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no usable tokenizer ({_reason(error)})") from error


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


def load_model(
    settings: ModelSettings,
    device: torch.device,
    dtype: torch.dtype,
    card: ModelCard | None = None,
) -> LanguageModel:
    """Load a model in evaluation mode and show on a probe that head(body(x)) = model(x).

    card: the model's, where it has been read before: a tokenizer takes as long as small weights.

    Raises `ModelError` for a folder without safetensors, weights that are missing or of another
    shape than the config says, an architecture that needs its own code, or logits that are not a
    linear head of the last hidden state.
    """
    from transformers import AutoModelForCausalLM  # heavy

    if device.type == "cpu":
        keep_freed_memory()
        use_faster_products()
    card = card or read_card(settings)
    try:
        with _quiet():
            both: Any = AutoModelForCausalLM.from_pretrained(
                card.folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            model, report = both
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{card.folder}: the model does not load ({_reason(error)})") from error
    _refuse_partial(card.folder, report)
    model.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        _own_memory(model)
        with _quiet():
            use_products_in_attention(model)
    loaded = LanguageModel(model, card, device, dtype)
    probe(loaded)
    return loaded


def _own_memory(model: torch.nn.Module) -> None:
    """Copy weights that are views of the mapped file into memory of their own.

    Matrix products of the same numbers round differently when their memory is aligned differently,
    and a file puts them anywhere: a result would depend on the length of a file's header. Training
    would write into views of a file that may be replaced.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def probe(model: LanguageModel) -> None:
    """Raise `ModelError` unless the head's product of the body's output is the model's output.

    Both see the hidden states scaled up until the logits spread over +-100: small logits pass a
    soft-cap almost unchanged.
    """
    ids = torch.arange(12, device=model.device).reshape(2, 6) % min(model.vocabulary, 1000)
    with torch.inference_mode():
        hidden = model.hidden(ids)
        spread = model.head.logits(hidden.flatten(0, 1)).abs().amax().item()
        small = 0 < spread < PROBE_SPREAD
        scale = 2.0 ** math.ceil(math.log2(PROBE_SPREAD / spread)) if small else 1.0
        parts = model.head.logits((hidden * scale).flatten(0, 1))
        with _scaled_body(model, scale):
            whole = model.model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
    if not whole.isfinite().all():
        raise ModelError(
            f"{model.card.folder}: its logits hold NaN or infinity on a probe of six tokens"
        )
    coarse = 1.0 if model.dtype == torch.float32 else 30.0  # bf16 rounds the whole model's logits
    gap = ((whole - parts).abs().amax() / whole.abs().amax().clamp(min=1e-6)).item()
    if not gap <= PROBE_TOLERANCE * coarse:
        raise ModelError(
            f"{model.card.folder}: its logits are not a plain linear head of the last hidden state "
            f"(they differ by {gap:.2%} of their spread): logits that are scaled or soft-capped "
            "are not supported"
        )


@contextlib.contextmanager
def _scaled_body(model: LanguageModel, scale: float) -> Iterator[None]:
    """Multiply the body's output on its way to the model's own head."""

    def scaled(_body: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * scale
        return output

    handle = model.model.base_model.register_forward_hook(scaled)
    try:
        yield
    finally:
        handle.remove()


def _refuse_partial(folder: Path, report: dict[str, Any]) -> None:
    """Raise `ModelError` where transformers made up weights that the files do not give."""
    wrong = {name: "missing" for name in sorted(report["missing_keys"])}
    wrong |= {name: "of another shape" for name, *_ in sorted(report["mismatched_keys"])}
    if wrong:
        name, what = next(iter(wrong.items()))
        raise ModelError(
            f"{folder}: its weights are not those of its config.json: {name} is {what} "
            f"({len(wrong)} such tensors); copy the folder again"
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


def _reason(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
