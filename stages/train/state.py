"""What training carries from round to round: float32 masters and Adam's moments, in safetensors.

A checkpoint in bfloat16 would lose most of a round's updates (at lr 1e-6 an update is smaller than
half a step of bfloat16), so the next round starts from here. Files are written beside, flushed and
renamed: a reader sees the old state or the new one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...storage.errors import StoreError
from ...storage.files import replacing

FILE = "state.safetensors"


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
) -> None:
    """Write masters, moments and `about` (JSON: step, counters, key) below a folder."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[f"master.{name}"] = parameter.detach().contiguous()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value.detach().contiguous()
    try:
        with replacing(path / FILE) as beside:
            save_file(tensors, beside, metadata={"about": json.dumps(about)})
    except OSError as error:
        raise StoreError(
            f"{path}: the training state cannot be written ({error.strerror or error}); free some "
            "space, or choose another place with `runs`"
        ) from error


def drop_state(path: Path) -> None:
    """Remove a state, where there is one."""
    shutil.rmtree(path, ignore_errors=True)


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Read a state into a model and (where given) its optimiser; return `about`.

    Raises `StoreError` when the file is damaged or belongs to another architecture.
    """
    about = state_about(path)
    try:
        if about is None:
            raise OSError("unreadable")
        with safe_open(_file(path), framework="pt") as file:
            names = set(file.keys())
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                _copy(parameter, file.get_tensor(f"master.{name}"))
                if optimizer is not None:
                    optimizer.state[parameter] = {
                        # a copy: the tensor is a view of the file, which may be replaced
                        moment: file.get_tensor(f"{moment}.{name}").to(parameter.device, copy=True)
                        for moment in ("step", "exp_avg", "exp_avg_sq")
                        if f"{moment}.{name}" in names
                    }
    except (SafetensorError, OSError, RuntimeError) as error:
        raise StoreError(
            f"{path}: not the training state of this model ({str(error).splitlines()[0]}); delete "
            "it, and the round before is trained again from stored signals"
        ) from error
    return about


def state_about(path: Path) -> dict[str, Any] | None:
    """Return `about` of a state file, or None where there is no readable one."""
    try:
        with safe_open(_file(path), framework="pt") as file:
            return json.loads(file.metadata()["about"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _file(path: Path) -> Path:
    """Return the file of a state: older versions wrote the file alone."""
    return path / FILE if path.is_dir() else path


def _copy(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
