"""Tensors by name: their hashes, and safetensors files whose failures are those of any file."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def tensor_hashes(names: Collection[str], tensor: Callable[[str], Tensor]) -> dict[str, str]:
    """Return the sha256 of name, type, shape and numbers of each tensor.

    tensor: gives one by its name, when it is asked for; it is not kept.
    """

    def of(name: str) -> str:
        value = tensor(name).detach().cpu().contiguous()
        digest = hashlib.sha256(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock alone
        return dict(zip(names, pool.map(of, names), strict=True))


def stored_tensor(path: Path, name: str) -> Tensor:
    """Return a tensor of a safetensors file, which stays mapped while the tensor is there.

    Of a file that is read through one mapping all pages would stay with the process to the end.
    """
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


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
