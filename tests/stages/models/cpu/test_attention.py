"""Attention by plain products is torch's, in value and gradient, and gives way where it must."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CPU, load, reference_model, write_model
from tip.stages.models.card import read_card
from tip.stages.models.cpu import attention as module
from tip.stages.models.cpu import products
from tip.stages.models.cpu.attention import attention
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ROWS, HEADS, WIDTH = 3, 6, 8


def inputs(
    shared: int, tokens: int, seen: int, *, room: int = 0, gradients: bool = False
) -> list[torch.Tensor]:
    """Return queries, keys and values; room: places behind them in a buffer, filled with NaN."""
    generator = torch.Generator().manual_seed(tokens + seen)
    query = torch.randn(ROWS, HEADS, tokens, WIDTH, generator=generator)
    buffers = torch.full((2, ROWS, shared, seen + room, WIDTH), float("nan"))
    buffers[:, :, :, :seen] = torch.randn(2, ROWS, shared, seen, WIDTH, generator=generator)
    found = [query, *buffers[:, :, :, :seen]]
    return [t.clone().requires_grad_() for t in found] if gradients else found


def both(
    tensors: list[torch.Tensor], mask: torch.Tensor | None, **more: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ours and transformers' own."""
    layer: Any = SimpleNamespace(num_key_value_groups=HEADS // tensors[1].shape[1])
    ours, weights = attention(layer, *tensors, mask, **more)
    assert weights is None
    theirs, _ = sdpa_attention_forward(layer, *tensors, mask, **more)
    return ours, theirs


def left_padding(tokens: int, seen: int) -> torch.Tensor:
    """Return the mask of rows with 0, 1, 2 padding tokens in front, causal."""
    causal = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)
    there = torch.arange(seen) >= torch.arange(ROWS)[:, None]
    return causal[None, None] & there[:, None, None]


@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize("tokens", [1, 2, 7, 256])
def test_a_whole_sequence_gives_the_same_values_and_gradients(shared: int, tokens: int) -> None:
    tensors = inputs(shared, tokens, tokens, gradients=True)
    ours, theirs = both(tensors, None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    towards = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    for a, b in zip(
        torch.autograd.grad(ours, tensors, towards),
        torch.autograd.grad(theirs, tensors, towards),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize(("tokens", "seen"), [(1, 9), (5, 5), (4, 9)])
def test_padding_in_front_changes_nothing_and_what_sees_nothing_is_no_nan(
    shared: int, tokens: int, seen: int
) -> None:
    mask = left_padding(tokens, seen)
    ours, theirs = both(inputs(shared, tokens, seen, room=4), mask)
    sees = mask.any(3).squeeze(1)
    torch.testing.assert_close(ours[sees], theirs[sees], rtol=0, atol=3e-6)
    assert ours.isfinite().all()


def test_a_token_with_a_cache_sees_all_of_it_and_nothing_of_the_room_behind() -> None:
    ours, theirs = both(inputs(2, 1, 11, room=5), None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("more", [{"scaling": 0.7}, {"is_causal": False}])
def test_scaling_and_direction_are_those_asked_for(more: dict[str, Any]) -> None:
    ours, theirs = both(inputs(2, 6, 6), None, **more)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    usual, _ = both(inputs(2, 6, 6), None)
    assert not torch.allclose(ours, usual, atol=1e-2)


@pytest.mark.parametrize(
    ("tokens", "seen", "dtype", "more"),
    [
        (257, 257, torch.float32, {}),
        (4, 4, torch.float64, {}),
        (4, 9, torch.float32, {}),  # several tokens of a longer cache, without a mask
        (4, 4, torch.float32, {"position_bias": torch.zeros(1, HEADS, 4, 4)}),
        (4, 4, torch.bfloat16, {}),
    ],
)
def test_what_it_is_not_made_for_goes_to_transformers(
    monkeypatch: pytest.MonkeyPatch, tokens: int, seen: int, dtype: torch.dtype, more: dict
) -> None:
    monkeypatch.setattr(module, "_by_products", lambda *_: pytest.fail("not made for it"))
    ours, theirs = both([t.to(dtype) for t in inputs(2, tokens, seen)], None, **more)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(ROWS, 1, 4, 4),  # added to the scores
        torch.ones(ROWS, HEADS, 4, 4, dtype=torch.bool).tril(),  # a plane for each head
    ],
)
def test_other_masks_go_to_transformers(
    monkeypatch: pytest.MonkeyPatch, mask: torch.Tensor
) -> None:
    monkeypatch.setattr(module, "_by_products", lambda *_: pytest.fail("not made for it"))
    ours, theirs = both(inputs(2, 4, 4), mask)
    assert torch.equal(ours, theirs)


def test_dropout_goes_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_by_products", lambda *_: pytest.fail("not made for it"))
    ours, _ = both(inputs(2, 4, 4), None, dropout=1.0)
    assert (ours == 0).all()


def test_autocast_goes_to_transformers_whose_scores_are_not_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_by_products", lambda *_: pytest.fail("not made for it"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = both(inputs(2, 4, 4), None)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_a_loaded_model_uses_it_and_computes_what_eager_attention_does_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    folder = write_model(tmp_path / "m", architecture)
    ids = torch.from_numpy(np.random.default_rng(0).integers(2, 60, (3, 20)))
    calls, before = [], module._by_products
    monkeypatch.setattr(module, "_by_products", lambda *a: calls.append(1) or before(*a))
    module.register()
    card = read_card(ModelSettings(model=str(folder)))
    model = load_model(card, torch.device("cpu"), torch.float32, attention=module.NAME)
    calls.clear()
    with torch.inference_mode():
        found = model.model(input_ids=ids, use_cache=False).logits
        expected = reference_model(folder)(input_ids=ids, use_cache=False).logits
    assert len(calls) == 2  # one a layer
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("code", "own"),
    [
        ("attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)", True),
        ('def block(config, attn_implementation: str = "sdpa"): ...', True),
        ('if self.config._attn_implementation == "sdpa" and not output_attentions:', False),
        ('if self.config._attn_implementation in ("eager", "sdpa"):', False),
        ("if config._attn_implementation in (\n    'eager',\n    'sdpa',\n):", False),
        (None, False),
    ],
)
def test_code_that_asks_for_the_name_of_torchs_attention_keeps_it(
    monkeypatch: pytest.MonkeyPatch, code: str | None, *, own: bool
) -> None:
    def source(_: object) -> str:
        if code is None:
            raise OSError("no source")
        return code

    monkeypatch.setattr(module.inspect, "getsource", source)
    chosen: list[str] = []

    class Model:
        _supports_sdpa = True

        def set_attn_implementation(self, name: str) -> None:
            chosen.append(name)

    module.use_products_in_attention(Model())
    assert chosen == [module.NAME] * own


@pytest.mark.parametrize(
    ("architecture", "config"), [("mamba", {}), ("falcon", {"alibi": True})], ids=str
)
def test_a_model_that_has_no_sdpa_or_loses_biases_by_it_keeps_what_it_has(
    tmp_path: Path, architecture: str, config: dict
) -> None:
    folder = write_model(tmp_path / "model", architecture, **config)
    module.register()
    card = read_card(ModelSettings(model=str(folder)))
    model = load_model(card, CPU, torch.float32, attention=module.NAME)
    assert model.model.config._attn_implementation == "eager"
    ids = torch.arange(2, 22).reshape(2, 10)
    with torch.inference_mode():
        found = model.model(input_ids=ids, use_cache=False).logits
        expected = reference_model(folder)(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=2e-4)


def test_a_model_with_classes_of_its_own_for_attention_loads_and_keeps_them(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "falcon", "falcon")
    model = load(folder)
    assert model.model.config._attn_implementation == "sdpa"
    ids = torch.arange(2, 22).reshape(2, 10)
    with torch.inference_mode():
        found = model.model(input_ids=ids, use_cache=False).logits
        expected = reference_model(folder)(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("tokens", "inside"), [(1, "highest"), (2, "medium")])
def test_only_decoding_whose_shape_changes_at_every_step_is_left_to_mkl(
    monkeypatch: pytest.MonkeyPatch, tokens: int, inside: str
) -> None:
    before, seen = torch.get_float32_matmul_precision(), []
    monkeypatch.setattr(products, "use_faster_products", lambda: True)
    monkeypatch.setattr(
        module, "_by_products", lambda *_: seen.append(torch.get_float32_matmul_precision())
    )
    try:
        torch.set_float32_matmul_precision("medium")
        attention(SimpleNamespace(), *inputs(2, tokens, tokens), None)  # type: ignore[arg-type]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [inside]
