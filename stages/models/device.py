"""Devices and types by the names that configs give them."""

import re
from collections.abc import Callable
from typing import Literal

import torch

from ...storage.errors import ConfigError


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


def speeds_up(
    setting: str,
    wanted: Literal["auto", True, False],
    device: torch.device,
    lack: Callable[[], str | None],
) -> bool:
    """Tell whether a faster way is taken on a device. `auto`: on a GPU where nothing is lacking.

    setting: by which it is wanted. lack: says why it cannot be taken. Raises `ConfigError` where
    it is wanted and cannot be.
    """
    if wanted is False or (wanted == "auto" and device.type != "cuda"):
        return False
    reason = lack()
    if wanted is True and reason is not None:
        raise ConfigError(f"{setting} = true: {reason}; set {setting} = 'auto', or false")
    return reason is None
