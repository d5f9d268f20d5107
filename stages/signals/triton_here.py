"""Whether Triton's kernels run on a device and are shown to be right."""

import importlib.util
import os
from collections.abc import Callable

import torch


def lack_of_kernels(device: torch.device, error: Callable[[], float], right: float) -> str | None:
    """Say why kernels cannot be taken on a device; None where they can.

    error: compiles them and returns how far they are from what is known to be right. right: what is
    near enough.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # in which Triton runs on a CPU
    if device.type != "cuda" and not interpreted:
        return f"Triton's kernels need a GPU, and device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton, which torch for CUDA brings along, is not installed"
    try:
        off = error()
    # Triton's compiler, a C compiler, a driver and cuBLAS have their errors; what is wanted of all
    # of them is that a stage goes on as it would without them.
    except Exception as problem:
        first = str(problem).strip().splitlines() or [type(problem).__name__]
        return f"Triton's kernels do not run on this {device.type} ({first[0][:200]})"
    if not off < right:
        return f"Triton's kernels are wrong on this {device.type}: off by {off:.1e}"
    return None
