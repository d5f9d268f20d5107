"""Float32 matrix products on a CPU, by the faster of the two libraries that torch holds.

torch multiplies float32 matrices with MKL, which on AMD's CPUs leaves AVX-512 unused and reaches
less than half of the rate of oneDNN. It hands float32 to oneDNN only where it may round the factors
to bfloat16. oneDNN makes use of that leave on CPUs with a matrix unit for bfloat16 (AMX) and
nowhere else; a product that rounding would change shows which of the two this CPU is.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch

# oneDNN compiles code for each new shape and keeps that of 1,024: up to 10 GB, and then it crawls.
_SHAPES_KEPT = 64
_ONE_MORE = 2.0**-12  # beside 1: kept by the 24 bits of float32, lost by the 8 of bfloat16


@functools.cache
def use_faster_products() -> bool:
    """Let oneDNN multiply float32 matrices where it is faster and as exact; return whether it does.

    The switch is the process's own: `torch.set_float32_matmul_precision`.
    """
    if not _is_for_this_machine():
        return False
    before = _precision()
    if before is None:
        return False
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_SHAPES_KEPT))
    torch.set_float32_matmul_precision("medium")
    if products_are_exact():
        return True
    torch.set_float32_matmul_precision(before)
    return False


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Multiply float32 matrices with torch's precision `name` inside the block.

    A process that sets precisions by backend keeps its own: torch would know two answers.
    """
    before = _precision()
    if before is None:
        yield
        return
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _precision() -> str | None:
    """Return torch's precision of float32 products, None where it is set by backend."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def for_changing_shapes() -> contextlib.AbstractContextManager[None]:
    """Leave products to MKL inside the block: small ones whose shape is new each time."""
    return precision("highest") if use_faster_products() else contextlib.nullcontext()


def _is_for_this_machine() -> bool:
    """Return whether this is an AMD CPU with AVX-512, and no GPU, whose products would round."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        not torch.cuda.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpuinfo.exists()
        and "AuthenticAMD" in cpuinfo.read_text()
    )


def products_are_exact() -> bool:
    """Return whether products of float32 matrices keep the digits of their factors."""
    ones = torch.ones(256, 256, dtype=torch.float32, device="cpu")
    nearly = ones + _ONE_MORE
    linear = torch.nn.functional.linear(nearly, ones)
    products = (nearly @ ones, ones @ nearly, linear, nearly[None] @ ones[None])
    return all(bool((product == 256 * (1 + _ONE_MORE)).all()) for product in products)
