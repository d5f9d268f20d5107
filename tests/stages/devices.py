"""Devices of the numeric tests: the CPU, and a GPU where there is one.

What is expected is computed on the CPU; what is tested runs on each device. On a machine without a
GPU there is one device, so nothing is skipped test by test: `test_devices.py` says so, once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@contextmanager
def computed_on(device: torch.device, names: dict[str, Any], *functions: str) -> Iterator[None]:
    """Let functions compute on a device inside the block, by the names that a module has for them.

    They are given tensors of the CPU and give some back, in whatever holds them; what they write
    into, gradients among it, is written here, too.
    """
    own = {name: names[name] for name in functions}
    try:
        if device.type != "cpu":
            names.update({name: on(device, function) for name, function in own.items()})
        yield
    finally:
        names.update(own)


@contextmanager
def given(device: torch.device, names: dict[str, Any], *functions: str) -> Iterator[None]:
    """Let functions that take a `device` be given this one, by the names that a module has."""
    own = {name: names[name] for name in functions}
    try:
        names.update({name: partial(function, device=device) for name, function in own.items()})
        yield
    finally:
        names.update(own)


def on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes on a device what it is given on the CPU."""

    @wraps(function)
    def computed(*args: Any, **named: Any) -> Any:
        sent: dict[int, tuple[Tensor, Tensor]] = {}  # one that is given twice stays one

        def send(tensor: Tensor) -> Tensor:
            if id(tensor) not in sent:
                there = tensor.detach().to(device, copy=True)
                there.requires_grad_(tensor.requires_grad)
                there.grad = None if tensor.grad is None else tensor.grad.to(device)
                sent[id(tensor)] = tensor, there
            return sent[id(tensor)][1]

        found = function(*_each(args, send), **_each(named, send))
        with torch.no_grad():
            for here, there in sent.values():
                if not here.requires_grad and not torch.equal(here, there.cpu()):
                    here.copy_(there)
                here.grad = None if there.grad is None else there.grad.cpu()
        return _each(found, Tensor.cpu)

    return computed


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value whose tensors, in whatever holds them, are changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each(inner, change) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        found = [_each(inner, change) for inner in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)}
        )
    return value
