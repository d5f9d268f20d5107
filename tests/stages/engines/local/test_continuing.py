"""A model writes only when, token by token, it computes what it computes at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import load, prompts, sampling, write_model
from tip.stages.engines.local import continuing
from tip.stages.engines.local.continuing import takes_padding
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request
from tip.storage.errors import ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("llama", True), ("gpt2", True), ("bamba", True), ("bart", False)],
)
def test_padding_is_put_in_front_where_positions_are_not_counted_from_it(
    tmp_path: Path, architecture: str, expected: bool, dtype: torch.dtype
) -> None:
    assert takes_padding(load(write_model(tmp_path / "m", architecture), dtype)) == expected


@pytest.mark.parametrize("architecture", ["bart", "recurrent_gemma"])
def test_what_takes_no_padding_writes_prompts_of_all_lengths_as_it_does_each_alone(
    tmp_path: Path, architecture: str
) -> None:
    model = load(write_model(tmp_path / "model", architecture))
    asked = [Request(p.ids, i) for i, p in enumerate(prompts(5, 2, 5, 3, 2, 5))]
    together = LocalEngine(model, 4).generate(asked, sampling())
    for i, request in enumerate(asked):
        alone = LocalEngine(model, 4).generate([request], sampling())
        assert together.ids.row(i).tolist() == alone.ids.row(0).tolist()
        own = slice(together.ids.offsets[i], together.ids.offsets[i + 1])
        np.testing.assert_allclose(together.logprobs[own], alone.logprobs, rtol=0, atol=1e-5)


def test_a_model_whose_state_is_no_cache_is_refused(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model", "rwkv"))
    with pytest.raises(ModelError, match="token by token it computes something else than at once"):
        takes_padding(model)


def test_a_model_that_fails_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AttributeError("no such\nthing")

    monkeypatch.setattr(continuing, "new_cache", broken)
    with pytest.raises(ModelError, match=r"cannot write token by token \(no such thing\)"):
        takes_padding(load(write_model(tmp_path / "model")))


def test_it_is_shown_once_for_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(write_model(tmp_path / "model"))
    assert takes_padding(model)
    monkeypatch.setattr(continuing, "_shown", lambda _: pytest.fail("shown again"))
    assert takes_padding(LocalEngine(model, 1).model)
