"""Names of devices and types mean what is there, and others are refused."""

import pytest
import torch
from tiny import CPU
from tip.stages.models.device import resolve_device, resolve_dtype
from tip.storage.errors import ConfigError


def test_devices_are_resolved_and_absent_or_unknown_ones_refused() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "meta", "cuda:x", "cpu:0", ""):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
            resolve_device(name)
    with pytest.raises(ConfigError, match="visible here"):
        resolve_device("cuda:99")


def test_auto_means_bfloat16_on_a_gpu_and_float32_on_a_cpu() -> None:
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("float16", CPU) == torch.float16
