"""In rooms of a fixed size a batch writes what it writes in a cache that grows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import load, prompts, sampling, write_model
from tip.stages.engines.local import graphed
from tip.stages.engines.local.continuing import takes_padding
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.local.graphed import GraphedBatch, takes_rooms
from tip.stages.engines.protocols import Request
from waits import on_gpu, played_gpu

STOPS = (1, 2, 3, 4, 5)


def requests() -> list[Request]:
    asked = prompts(*((9, 1, 4, 4, 7, 2, 12, 3) * 3))
    return [Request(p.ids, 1000 + i) for i, p in enumerate(asked)]


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_rooms_are_filled_moved_and_left_as_a_cache_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_a_gpu: bool
) -> None:
    model, asked = load(write_model(tmp_path, "qwen3")), requests()
    terms = sampling(max_tokens=40, stop_ids=STOPS)
    expected = LocalEngine(model, 40).generate(asked, terms)
    moved = []
    honest = GraphedBatch._move
    monkeypatch.setattr(graphed, "_SPARE", 5)
    monkeypatch.setattr(graphed, "_replayed", lambda compute, _: compute)
    monkeypatch.setattr(
        GraphedBatch, "_move", lambda *args: (moved.append(len(args[2])), honest(*args))
    )
    monkeypatch.setattr(LocalEngine, "_begun", lambda self, *args: GraphedBatch(self.model, *args))
    if on_a_gpu:
        takes_padding(model)  # shown once a model, which waits
        with played_gpu() as waits:
            found = LocalEngine(on_gpu(model), 40).generate(asked, terms)
            assert waits.total <= (40 + 7) // 8, waits.places
    else:
        found = LocalEngine(model, 40).generate(asked, terms)
    assert len(moved) > 3, "rooms should be full, and rows should leave"
    assert min(moved) < max(moved)
    assert np.array_equal(found.ids.values, expected.ids.values)
    assert np.array_equal(found.ids.counts, expected.ids.counts)
    assert np.array_equal(found.top.values, expected.top.values)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=2e-5)


def test_recorded_steps_write_what_computed_ones_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """On a CPU nothing is recorded; on a GPU steps are replayed, over rooms that are left."""
    model, asked = load(write_model(tmp_path, "qwen3"), device=device), requests()
    terms = sampling(max_tokens=40, stop_ids=STOPS)
    expected = LocalEngine(model, 40).generate(asked, terms)
    monkeypatch.setattr(graphed, "_SPARE", 9)
    monkeypatch.setattr(LocalEngine, "_begun", lambda self, *args: GraphedBatch(self.model, *args))
    found = LocalEngine(model, 40).generate(asked, terms)
    assert np.array_equal(found.ids.values, expected.ids.values)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("llama", True), ("gemma2", False), ("mistral", False), ("bloom", False), ("mamba", False)],
)
def test_only_plain_full_attention_takes_rooms(
    tmp_path: Path, architecture: str, expected: bool
) -> None:
    assert takes_rooms(load(write_model(tmp_path, architecture))) == expected


def test_steps_are_recorded_on_a_gpu_alone_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(write_model(tmp_path))
    monkeypatch.setattr(graphed, "takes_rooms", lambda _: True)
    kinds = []
    for graphs in (False, True):
        kinds.append(type(LocalEngine(model, 4, graphs=graphs)._begun(requests(), sampling())))
        with played_gpu(), torch.inference_mode():
            there = on_gpu(load(write_model(tmp_path)))
            kinds.append(type(LocalEngine(there, 4, graphs=graphs)._begun(requests(), sampling())))
    assert [kind.__name__ for kind in kinds] == ["Batch", "Batch", "Batch", "GraphedBatch"]
