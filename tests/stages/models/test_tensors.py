"""What safetensors cannot write is the system's own error."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tip.stages.models.tensors import write_tensors


def test_tensors_and_texts_are_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.ones(3)}, {"format": "pt"})
    assert load_file(tmp_path / "x")["a"].tolist() == [1, 1, 1]


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as raised:
        write_tensors(tmp_path / "no" / "x", {"a": torch.ones(3)}, {})
    assert raised.value.errno == errno.ENOENT


def test_a_limit_of_the_file_size_is_an_error_of_the_system(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            write_tensors(tmp_path / "x", {"a": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG
