"""The kernels compile for a GPU that is not here, and read and write what their passes are said to.

In a process of its own: under TRITON_INTERPRET, which others may have set, nothing is compiled.
"""

import json
import os
import re
import subprocess
import sys

import pytest

COMPILE = """
import json
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tip.stages.signals import kernels, pair_kernel

for name, signature, constants in json.loads(sys.argv[1]):
    kernel = getattr(kernels, name, None) or getattr(pair_kernel, name)
    types = dict(zip(kernel.arg_names, signature + len(constants) * ["constexpr"], strict=True))
    # As the launcher has it for pointers, and for numbers that are multiples of 16.
    aligned = [n for n, type in enumerate(signature) if type != "fp32"]
    attributes = {(n,): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(kernel, types, constexprs=constants, attrs=attributes)
    options = {"num_warps": 8, "enable_fp_fusion": True}
    done = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert done.asm["cubin"][1:4] == b"ELF"  # machine code, by the ptxas that Triton brings
    print(json.dumps(done.asm["ptx"]))
"""

FOLD = ["*fp32", "i32", "i32", "*fp32", "*fp32", "fp32", "fp32"]
SPREAD = ["*fp32", "i32", "i32", "*fp32", "*fp32", "*fp32", "i32", "fp32", "fp32"]
IN_HALF = [*SPREAD[:5], "*bf16", *SPREAD[6:]]
BUCKETS = ["*fp32", "*i1", *4 * ["*fp32"], "*fp64", "i32", "*fp64", "*fp64", "*fp32", "*fp64"]
PAIR = [*2 * ["*fp32", "i32", "i32"], *4 * ["*fp32"], "*i64", "*fp32", "*i64"]
KERNELS = {
    "fold": ("fold_kernel", FOLD, {"CAPPED": False, "BLOCK": 8192}),
    "fold, capped": ("fold_kernel", FOLD, {"CAPPED": True, "BLOCK": 8192}),
    "spread": ("spread_kernel", SPREAD, {"CAPPED": False, "BLOCK": 4096}),
    "spread, bfloat16": ("spread_kernel", IN_HALF, {"CAPPED": False, "BLOCK": 4096}),
    "spread, bfloat16, capped": ("spread_kernel", IN_HALF, {"CAPPED": True, "BLOCK": 4096}),
    "reverse KL": ("reverse_kl_kernel", BUCKETS, {"BLOCK": 256}),
    "pair": ("pair_kernel", PAIR, {"BLOCK": 4096}),
}


@pytest.fixture(scope="module")
def ptx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the kernels as an H100 has them."""
    pytest.importorskip("triton", reason="Triton is not here: pip install triton")
    environment = {n: value for n, value in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(list(KERNELS.values()))],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(KERNELS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_an_h100(ptx: dict[str, str], name: str) -> None:
    assert ".target sm_90" in ptx[name]
    assert f".entry {KERNELS[name][0]}" in ptx[name]


def test_logits_are_read_and_gradients_written_16_bytes_at_a_time(ptx: dict[str, str]) -> None:
    for name, text in ptx.items():
        if name != "reverse KL":
            assert "ld.global.v4.b32" in text, name
            assert not re.search(r"ld\.global\.b32 .*\[ %rd\d+ \+ [48]", text), name
    assert "st.global.v4.b32" in ptx["spread"]


def test_buckets_are_counted_in_float64(ptx: dict[str, str]) -> None:
    assert "fma.rn.f64" in ptx["reverse KL"]
    assert "f64" not in ptx["fold"]
    assert "f64" not in ptx["pair"]
