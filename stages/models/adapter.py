"""A folder with a LoRA adapter, as peft writes it, which stands for the model that it makes.

Nothing is merged here: a base is found, and the two are told apart from all others. The merged
model is made in the store when it is first needed (`merged.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from ...storage.files import user_path
from ...storage.keys import canonical
from ..boundary import one_line
from .fingerprint import INDEX, WHOLE, digest_of, known_digest, weight_files
from .folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, model_folder, read_json
from .settings import ModelSettings

# What changes nothing of the merged model: how it was trained, where its base lay; which layers it
# stands beside is told by the names of its tensors.
_IGNORED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "parent_library",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "velora_config",
    }
)
# Kinds of LoRA that are no sum of base and adapter in the base's own layers, and one for which peft
# imports a module that the file names.
_UNFIT = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """An adapter and its base: a plain value.

    base: folder of the base. digest, base_digest: of the tensors of each; the latter empty where
    looking found a base that was never hashed here. settings: canonical JSON of what of the
    adapter's config changes the merged model.
    """

    folder: Path
    base: Path
    rank: int
    digest: str
    base_digest: str
    settings: str

    @property
    def hashed(self) -> bool:
        """Tell whether it is known what it makes."""
        return bool(self.base_digest)

    @property
    def declared(self) -> dict[str, Any]:
        """Return what stands for the merged weights in a fingerprint."""
        return {
            "base": self.base_digest,
            "adapter": self.digest,
            "settings": json.loads(self.settings),
        }

    def of(self, name: str) -> Path:
        """Return the folder that a file of the merged model is taken from: the adapter's first.

        A config that says how a base was quantised for training is none of the merged model.
        """
        path = self.folder / name
        own = path.is_file()
        if own and name == "config.json":
            own = not read_json(path).get("quantization_config")
        return self.folder if own else self.base


def find_adapter(settings: ModelSettings, *, look: bool = False) -> Adapter | None:
    """Return the adapter that a model's name stands for, None for any other model.

    look: hash and fetch no weights of the base. Raises `ModelError` for an adapter that cannot be
    used, a base that is not there, or one that is an adapter itself.
    """
    folder = user_path(settings.model)
    if not is_adapter(folder):
        return None
    about = read_json(folder / ADAPTER_CONFIG)
    _refuse_unfit(folder, about)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ModelError(
            f"{folder}: an adapter without {ADAPTER_WEIGHTS}; copy that file, or save the adapter "
            "again with peft (other formats are not read)"
        )
    base = _base_folder(folder, about, settings, look=look)
    digest = known_digest(base) if look else digest_of(weight_files(base))
    return Adapter(
        folder,
        base,
        about["r"],
        digest_of([weights], remember=not look),
        digest or "",
        _settings(folder / ADAPTER_CONFIG, about),
    )


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter in place of a model."""
    whole = any((folder / name).is_file() for name in (WHOLE, INDEX))
    return (folder / ADAPTER_CONFIG).is_file() and not whole


def _refuse_unfit(folder: Path, about: dict[str, Any]) -> None:
    """Raise `ModelError` for an adapter that cannot be merged into its base's own layers."""
    path, kind = folder / ADAPTER_CONFIG, about.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{path}: peft_type = {kind!r}; expected 'LORA': no other adapter is merged here"
        )
    rank = about.get("r")
    if type(rank) is not int or rank < 1:
        raise ModelError(f"{path}: r = {rank!r}; expected the rank of a LoRA adapter")
    start = about.get("init_lora_weights", True)
    unfit = [name for name in _UNFIT if about.get(name)]
    unfit += [] if start in _PLAIN_STARTS else ["init_lora_weights"]
    if unfit:
        raise ModelError(
            f"{path}: {unfit[0]} = {str(about[unfit[0]])[:100]!r} makes it more than a sum of base "
            "and adapter: merge it with what made it, and name the merged folder"
        )


def _base_folder(
    folder: Path, about: dict[str, Any], settings: ModelSettings, *, look: bool
) -> Path:
    """Return the folder of an adapter's base: absolute, beside the adapter, here, or of the hub."""
    path, name = folder / ADAPTER_CONFIG, about.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{path}: base_model_name_or_path = {name!r}; expected the folder or the hub name of "
            "the base"
        )
    places = [folder / user_path(name), user_path(name)]
    local = next((place for place in places if place.is_dir()), None)
    if local is not None and is_adapter(local):
        raise ModelError(
            f"{path}: its base {local} is an adapter itself: merge that into its own base first, "
            "and name the merged folder in base_model_name_or_path"
        )
    revision = None if local is not None else about.get("revision")
    if not isinstance(revision, str | None):
        raise ModelError(f"{path}: revision = {revision!r}; expected a text")
    base = ModelSettings(
        model=name if local is None else str(local),
        revision=revision,
        trust_remote_code=settings.trust_remote_code,
    )
    try:
        found = model_folder(base, weights=not look)
    except ModelError as error:
        raise ModelError(
            f"{path}: its base cannot be had: {error} (base_model_name_or_path = {name!r}, looked "
            f"for beside {folder}, in the working directory and on the hub)"
        ) from error
    if read_json(found / "config.json").get("quantization_config"):
        raise ModelError(
            f"{path}: its base {name} has quantised weights, which nothing is merged into: name "
            "the plain checkpoint in base_model_name_or_path"
        )
    return found


def _settings(path: Path, about: dict[str, Any]) -> str:
    """Return what of an adapter's config changes the merged model; what is off is left out.

    peft writes sets as lists in any order.
    """
    kept = {k: v for k, v in about.items() if k not in _IGNORED and not _is_off(v)}
    ordered = {k: sorted(v, key=str) if isinstance(v, list) else v for k, v in kept.items()}
    with one_line(lambda reason: ModelError(f"{path}: not usable ({reason})")):
        return canonical(ordered)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ([], {})
