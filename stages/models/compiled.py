"""Decoder layers that are compiled, each by itself, by torch's inductor.

Uncompiled, a body in bfloat16 spends more time in passes over its activations (norms, rotary
embeddings, casts) than in products; compiled, passes are fused. Layers have the same code, so one
is compiled for all of them, and for all lengths: a micro-batch of another shape is no other
program. Only rounding changes.

Source: PyTorch, "Reducing torch.compile cold start compilation time with regional compilation".
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ...storage.ledger import Ledger
from .device import speeds_up
from .language_model import LanguageModel

Wanted = Literal["auto", True, False]
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compiles(wanted: Wanted, device: torch.device, setting: str = "train.compile") -> bool:
    """Tell whether layers are compiled on a device. `auto`: on a GPU where compiling works.

    setting: by which it is wanted. Raises `ConfigError` where it is and does not work.
    """
    return speeds_up(setting, wanted, device, lambda: cannot_compile(device))


@functools.cache
def cannot_compile(device: torch.device) -> str | None:
    """Say why nothing is compiled for a device, None where a small program was, once a process."""
    _keep_programs()
    numbers = torch.linspace(-2, 2, 64, device=device)
    try:
        found = torch.compile(_small)(numbers)
    # A compiler for C++, Triton's and a driver have their errors; what is wanted of all of them is
    # that a training goes on as it would without them.
    except Exception as problem:
        first = str(problem).strip().splitlines() or [type(problem).__name__]
        return f"torch.compile does not work on this {device.type} ({first[0][:200]})"
    if not torch.allclose(found, _small(numbers), atol=1e-4):
        return f"torch.compile is wrong on this {device.type}"
    return None


def _small(numbers: Tensor) -> Tensor:
    return numbers.sin() * numbers.exp()


@contextmanager
def compiled_to_read(
    wanted: Wanted, *models: LanguageModel, ledger: Ledger | None = None
) -> Iterator[None]:
    """Let models that read whole sequences be compiled inside the block, where that is wanted.

    `auto` leaves out what is not tried: quantised weights. ledger: where its seconds are counted.
    """
    with ExitStack() as stack:
        seconds: Callable[[], float] = float  # none
        for model in models:
            odd = getattr(model.model.config, "quantization_config", None) is not None
            how = False if odd and wanted == "auto" else wanted
            if compiles(how, model.device, "score.compile"):
                since = stack.enter_context(compiled_layers(model))
                seconds = since if seconds is float else seconds  # the first counts for all
        yield
        if ledger is not None:
            ledger.add("compiling", seconds())


@contextmanager
def compiled_layers(model: LanguageModel) -> Iterator[Callable[[], float]]:
    """Let a model's decoder layers be compiled inside the block, when they first compute.

    Gives what tells the seconds spent compiling since.
    """
    _keep_programs()
    before, layers = _seconds(), list(layers_of(model.body))
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield lambda: _seconds() - before
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # what reads afterwards has other shapes and no graph


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of lists of modules, and nothing that is inside of them (experts)."""
    if isinstance(module, nn.ModuleList):
        yield from (layer for layer in module if any(True for _ in layer.parameters()))
        return
    for child in module.children():
        yield from layers_of(child)


def _seconds() -> float:
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))


def _keep_programs() -> None:
    """Keep compiled programs beside the user's other caches, unless a place for them was named."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault(_CACHE, str(Path(home) / "tip" / "compiled"))
