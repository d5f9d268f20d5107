"""Tensors by name: their hashes, and safetensors files whose failures are those of any file."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the sha256 of name, type, shape and numbers of each tensor."""

    def of(name: str) -> str:
        value = tensors[name].detach().cpu().contiguous()
        digest = hashlib.sha256(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock alone
        return dict(zip(tensors, pool.map(of, tensors), strict=True))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors, contiguous and without shared memory, and texts beside them.

    Raises `OSError` with the system's own number: safetensors tells it in words alone.
    """
    with system_errors(path):
        save_file(dict(tensors), path, metadata=metadata)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors says of a failing disk into the `OSError` that it was."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
