"""What training carries from round to round: float32 masters and Adam's moments, in safetensors.

A checkpoint in bfloat16 would lose most of a round's updates (at lr 1e-6 an update is smaller than
half a step of bfloat16), so the next round starts from here. Files are written beside, flushed and
renamed: a reader sees the old state or the new one. Beside the tensors stand their hashes: a state
is read as it was written or not at all.
"""

import functools
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...storage.errors import StoreError
from ...storage.files import replacing
from ...storage.keys import canonical, key_of
from ..models.tensors import stored_tensor, tensor_hashes, write_tensors
from .optimizers import MOMENTS, give_moments, moments_of

FILE = "state.safetensors"


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
) -> None:
    """Write masters, moments and `about` (JSON: step, counters, key) below a folder."""
    write_state(path, state_tensors(model, optimizer, lambda tensor: tensor), about)


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, gathered: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return masters and moments by name. gathered: makes one that lies spread whole."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[f"master.{name}"] = gathered(parameter.detach()).contiguous()
        for moment, value in moments_of(optimizer, parameter).items():
            tensors[f"{moment}.{name}"] = gathered(value).contiguous()
    return tensors


def write_state(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    """Write what `state_tensors` gives, and `about`, below a folder: whole or not at all.

    Returns its seal, the hash over hashes and `about`.
    """
    texts = _sealed(about, tensor_hashes(tensors, tensors.__getitem__))
    try:
        with replacing(path / FILE) as beside:
            write_tensors(beside, tensors, texts)
    except OSError as error:
        raise StoreError(
            f"{path}: the training state cannot be written ({error.strerror or error}); free some "
            "space, or choose another place with `runs`"
        ) from error
    return texts["seal"]


def drop_state(path: Path) -> None:
    """Remove a state, where there is one."""
    shutil.rmtree(path, ignore_errors=True)


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    spread: Callable[[Tensor, Tensor], Tensor] = lambda value, _: value,
    known: Collection[str] = (),
) -> dict[str, Any]:
    """Read a state into a model and (where given) its optimiser; return `about`.

    spread: gives a whole tensor as a parameter lies, where that lies spread over processes. known:
    see `check_state`. Raises `StoreError` when the file is damaged or belongs to another
    architecture; where a hash tells so, nothing has been changed.
    """
    about, file = check_state(path, known), _file(path)
    try:
        names = _names(file)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            _copy(parameter, spread(stored_tensor(file, f"master.{name}"), parameter))
            if optimizer is not None:
                moments = {
                    moment: spread(stored_tensor(file, f"{moment}.{name}"), parameter)
                    for moment in MOMENTS
                    if f"{moment}.{name}" in names
                }
                give_moments(optimizer, parameter, moments)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error
    return about


def masters_of(path: Path) -> dict[str, Tensor]:
    """Return the masters in a state by the names of their parameters. Raises as `load_state`."""
    check_state(path)
    file, prefix = _file(path), "master."
    try:
        names = sorted(name for name in _names(file) if name.startswith(prefix))
        return {name.removeprefix(prefix): stored_tensor(file, name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error


def check_state(path: Path, known: Collection[str] = ()) -> dict[str, Any]:
    """Return `about` of a state, all of whose bytes are as they were written.

    Those of older versions have no hashes. known: seals of states whose numbers need not be hashed,
    for this process has written them. Raises `StoreError` for a damaged one.
    """
    about = state_about(path)
    if about is None:
        raise _unusable(path, "unreadable")
    try:
        file = _file(path)
        with safe_open(file, framework="pt") as texts:
            sealed, seal = (texts.metadata().get(name) for name in ("sealed", "seal"))
        whole = (
            sealed is None
            or seal in known
            or json.loads(sealed)["hashes"]
            == tensor_hashes(_names(file), functools.partial(stored_tensor, file))
        )
    except (SafetensorError, OSError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error
    if not whole:
        raise _unusable(path, "its numbers are not those that were written")
    return about


def state_about(path: Path) -> dict[str, Any] | None:
    """Return `about` of a state file, or None where there is no readable one."""
    try:
        with safe_open(_file(path), framework="pt") as file:
            texts = file.metadata()
        if "sealed" not in texts:
            return json.loads(texts["about"])  # as older versions wrote it
        return json.loads(texts["sealed"])["about"] if _is_sealed(texts) else None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _sealed(about: dict[str, Any], hashes: dict[str, str]) -> dict[str, str]:
    """Return the texts of a file: what is said, and a hash over that."""
    text = canonical({"about": about, "hashes": hashes})
    return {"sealed": text, "seal": key_of(text)}


def _is_sealed(texts: dict[str, str]) -> bool:
    return texts.get("seal") == key_of(texts["sealed"])


def _unusable(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: not the training state that was written here for this model ({reason}); delete "
        "it, and that round is trained again from stored signals"
    )


def _names(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as tensors:
        return set(tensors.keys())


def _file(path: Path) -> Path:
    """Return the file of a state: older versions wrote the file alone."""
    return path / FILE if path.is_dir() else path


def _copy(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
