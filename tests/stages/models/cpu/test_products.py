"""Matrix products may change their library, never their digits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tip.stages.models.cpu import products


@pytest.fixture(autouse=True)
def _precision_as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine look like the one the switch is for."""
    monkeypatch.setattr(products, "_is_for_this_machine", lambda: True)


def test_products_keep_the_digits_of_float32_once_a_model_could_have_been_loaded() -> None:
    products.use_faster_products()
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    for found in (a @ b, torch.nn.functional.linear(a, b.T), (b.T @ a.T).T):
        assert ((found - exact).norm() / exact.norm()).item() < 1e-6


def test_the_probe_tells_rounded_products_from_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("highest")
    assert products.products_are_exact()
    exact = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda a, b: exact(a.bfloat16().float(), b.bfloat16().float()),
    )
    assert not products.products_are_exact()


@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize(("exact", "left"), [(True, "medium"), (False, "high")])
def test_a_library_that_rounds_is_not_used(
    monkeypatch: pytest.MonkeyPatch, *, exact: bool, left: str
) -> None:
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr(products, "products_are_exact", lambda: exact)
    assert products.use_faster_products.__wrapped__() is exact
    assert torch.get_float32_matmul_precision() == left


def test_other_machines_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_is_for_this_machine", lambda: False)
    torch.set_float32_matmul_precision("highest")
    assert not products.use_faster_products.__wrapped__()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("amd")
def test_code_for_few_shapes_is_kept_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    products.use_faster_products.__wrapped__()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    products.use_faster_products.__wrapped__()
    assert os.environ[name] == "64"


@pytest.mark.usefixtures("amd")
def test_a_process_that_sets_precisions_by_backend_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: pytest.fail("set"))
    assert not products.use_faster_products.__wrapped__()


def test_a_block_in_a_process_that_sets_precisions_by_backend_leaves_them_alone() -> None:
    """As a training step in bfloat16 on a GPU is: torch refuses to name one precision then."""
    program = (
        "import torch\n"
        "from tip.stages.models.cpu.products import precision, use_faster_products\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "with precision('high'):\n"
        "    torch.ones(2, 2) @ torch.ones(2, 2)\n"
        "print(use_faster_products(), torch.backends.cuda.matmul.fp32_precision)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False tf32"), done.stderr


@pytest.mark.parametrize(
    ("gpu", "capability", "cpu", "meant"),
    [
        (False, "AVX512", "AuthenticAMD", True),
        (True, "AVX512", "AuthenticAMD", False),
        (False, "AVX2", "AuthenticAMD", False),
        (False, "AVX512", "GenuineIntel", False),
    ],
)
def test_the_switch_is_for_amd_with_avx512_and_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, *, gpu: bool, capability: str, cpu: str, meant: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: f"vendor_id : {cpu}")
    assert products._is_for_this_machine() is meant
