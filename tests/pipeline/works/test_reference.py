"""What an engine is held against: known from a training, stored once, or not to be had."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tip.pipeline.works.reference import reference_of
from tip.stages import holder as module
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.holder import Holder, InVllm
from tip.stages.models.card import read_card
from tip.stages.models.settings import ModelSettings
from tip.stages.models.weights import Weights
from tip.storage.store.store import Store

from ..conftest import PAIR

PROBES = ((2, 3, 4, 5), (7, 8))


def wanted(**changes: Any) -> InVllm:
    card = read_card(ModelSettings(model=str(PAIR / "student")))
    weights = Weights("student", card, card.fingerprint, "float32")
    spec = EngineSpec(card.folder, "float32", "cpu", 64, 8, 8, 36)
    return InVllm(weights, spec, PROBES, **changes)


def holder(said: list[str]) -> Holder:
    def nowhere(_: Any) -> Path:
        raise AssertionError("nothing here is a checkpoint")

    return Holder(torch.device("cpu"), at_once=2, folder_of=nowhere, say=said.append)


def test_a_first_model_is_loaded_once_and_its_log_probs_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    found = reference_of(wanted(), holder([]), store)
    assert found is not None
    assert found.shape == (4,)
    model = holder([]).model(wanted().weights)
    logits = model.model(input_ids=torch.tensor([PROBES[0]])).logits[0].log_softmax(1)
    expected = logits[:-1].gather(1, torch.tensor(PROBES[0])[1:, None])[:, 0]
    np.testing.assert_allclose(found[:3], expected.numpy(), atol=1e-5)
    monkeypatch.setattr(module, "load_model", lambda *_, **__: pytest.fail("loaded again"))
    again = reference_of(wanted(), holder([]), store)
    np.testing.assert_array_equal(again, found)  # type: ignore[arg-type]


def test_a_checkpoint_brings_its_own(tmp_path: Path) -> None:
    known = wanted(reference=(-1.0, -2.0))
    found = reference_of(known, holder([]), Store(tmp_path))
    assert found is not None
    assert found.tolist() == [-1.0, -2.0]
    assert not list(Store(tmp_path).list())


def test_a_model_too_large_for_the_embedded_engine_has_none_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "load_model", too_large)
    said: list[str] = []
    assert reference_of(wanted(), holder(said), Store(tmp_path)) is None
    assert "the first scored shard will tell" in said[0]
    assert not list(Store(tmp_path).list())
