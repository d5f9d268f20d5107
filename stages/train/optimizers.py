"""AdamW and its leaner kin: what moments a parameter has, and how they come back to the bit.

bitsandbytes keeps moments in 8 bits, in blocks of 256 (arXiv:2110.02861), or lets the driver move
them to the host (paged; on a CPU they are where they are anyhow).
"""

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...storage.errors import ConfigError
from ..models.quiet import quiet
from .settings import TrainSettings

_OF_TORCH = ("step", "exp_avg", "exp_avg_sq")
_OF_BITSANDBYTES = ("step", "state1", "state2", "absmax1", "absmax2")  # its maps are constants
MOMENTS = tuple(dict.fromkeys((*_OF_TORCH, *_OF_BITSANDBYTES)))
"""Names of all that an optimiser may keep of a parameter."""
MOMENT_BYTES = {"adamw": 8.0, "paged_adamw": 8.0}
"""Of a parameter. In 8 bits two bytes, and two float32 for each block of 256."""
_IN_8_BITS = 2 + 2 * 4 / 256


def moment_bytes(name: str) -> float:
    """Return the bytes that both moments of a parameter take."""
    return MOMENT_BYTES.get(name, _IN_8_BITS)


def require_optimizer(settings: TrainSettings) -> None:
    """Raise `ConfigError` where the library of the optimiser is not there."""
    if settings.optimizer != "adamw" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"train.optimizer = '{settings.optimizer}' needs bitsandbytes, which is not installed: "
            "pip install 'tip-opd[bitsandbytes]', or set train.optimizer = 'adamw'"
        )


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser of what wants gradients; weight decay holds matrices only.

    As is usual for norms and biases.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    usual: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **usual)
    require_optimizer(settings)
    with quiet():
        import bitsandbytes  # an extra

    optim: Any = bitsandbytes.optim

    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    kinds = {
        "adamw8bit": optim.AdamW8bit,
        "paged_adamw": optim.PagedAdamW,
        "paged_adamw8bit": optim.PagedAdamW8bit,
    }
    return kinds[settings.optimizer](groups, **usual)


def moments_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return what an optimiser keeps of a parameter, by its name there; none before a step."""
    return {
        name: torch.as_tensor(value).detach()
        for name, value in optimizer.state.get(parameter, {}).items()
        if not name.startswith("qmap")
    }


def give_moments(
    optimizer: torch.optim.Optimizer, parameter: Tensor, moments: Mapping[str, Tensor]
) -> None:
    """Give an optimiser what `moments_of` returned. Raises `RuntimeError` where they do not fit."""
    known = moment_names(optimizer)
    if moments and (wrong := moments.keys() - {*known} or {*known[:3]} - moments.keys()):
        raise RuntimeError(f"of another optimiser: {sorted(wrong)[0]}")
    if not moments or not hasattr(optimizer, "init_state"):
        # a copy: the tensor is a view of the file, which may be replaced
        copies = {n: v.to(parameter.device, copy=True) for n, v in moments.items()}
        optimizer.state[parameter] = copies
        return
    where = ((g, p) for g, group in enumerate(optimizer.param_groups)
             for p, each in enumerate(group["params"]) if each is parameter)  # fmt: skip
    group, place = next(where)
    # it makes room where it wants it: paged, or on the device
    optimizer.init_state(optimizer.param_groups[group], parameter, group, place)  # type: ignore[attr-defined]
    room = optimizer.state[parameter]
    for name, value in moments.items():
        if name == "step":
            room[name] = int(value)
        else:
            room[name].copy_(value)


def moment_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of what an optimiser may keep of a parameter."""
    return _OF_BITSANDBYTES if hasattr(optimizer, "init_state") else _OF_TORCH
