"""Compiled layers train as layers that are not, in one program for all lengths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, load
from tiny_training import Round, distance, train_settings, weights
from tip.stages.models import compiled
from tip.stages.models.compiled import cannot_compile, compiled_layers, compiles, layers_of
from tip.stages.train import train as train_module
from tip.stages.train.settings import LoraSettings, TrainSettings
from tip.stages.train.totals import Totals
from tip.stages.train.worlds.alone import Alone
from tip.storage.errors import ConfigError
from torch._dynamo.utils import counters

GPU = torch.device("cuda")


def trained(folder: Path, made: Round, settings: TrainSettings) -> tuple[Totals, dict[str, Any]]:
    """Return what a round of three steps came to, and the student after it."""
    folder.mkdir()
    student = load(made.student)
    totals = train_module.train(
        student,
        made.data,
        settings,
        [1e-3] * 3,
        autocast=torch.float32,
        seed=0,
        start=None,
        state=folder / "state",
        snapshot=folder / "snapshot",
        key="key",
    )
    assert all(layer._compiled_call_impl is None for layer in layers_of(student.body))
    return totals, weights(student)


@pytest.mark.soak
@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True}], ids=str)
def test_a_round_with_compiled_layers_is_the_round_but_for_rounding(
    untied: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    expected, plain = trained(tmp_path / "plain", untied, train_settings(compile=False, **more))
    assert expected.compile_seconds == 0
    assert compiles(True, CPU)  # compiles a small program, once a process
    torch._dynamo.reset()
    counters.clear()
    found, moved = trained(tmp_path / "compiled", untied, train_settings(compile=True, **more))
    shapes = len({(len(untied.data.lengths), n) for n in untied.data.lengths.tolist()})
    assert shapes > 3, "micro-batches should differ in length"
    # of two layers and all lengths; one more where a micro-batch is a single row
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
    assert found.compile_seconds > 0
    assert any((tmp_path / "programs").iterdir())
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert distance(moved, plain) < 1e-4


def test_layers_are_compiled_inside_the_block_alone(untied: Round) -> None:
    student = load(untied.student)
    layers = list(layers_of(student.body))
    assert len(layers) == 2
    with compiled_layers(student) as seconds:
        assert all(layer._compiled_call_impl is not None for layer in layers)
        assert seconds() == 0  # nothing has computed yet
    assert all(layer._compiled_call_impl is None for layer in layers)


def test_auto_compiles_on_a_gpu_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in (None, "no compiler"):
        monkeypatch.setattr(compiled, "cannot_compile", lambda _, reason=reason: reason)
        assert not compiles("auto", CPU)
        assert not compiles(False, GPU)
        assert compiles("auto", GPU) == (reason is None)
    with pytest.raises(ConfigError, match=r"train.compile = true: no compiler; set train.compile"):
        compiles(True, CPU)


def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no g++\nin any path")

    cannot_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    assert cannot_compile(CPU) == "torch.compile does not work on this cpu (no g++)"
    cannot_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda _: torch.cos)
    assert cannot_compile(CPU) == "torch.compile is wrong on this cpu"
    cannot_compile.cache_clear()


@pytest.mark.parametrize(
    ("size", "lora", "expected"),
    [(1, {}, "auto"), (2, {}, False), (1, {"bits": 4}, False), (1, {"dropout": 0.1}, False)],
)
def test_auto_leaves_out_what_was_not_tried(
    untied: Round, monkeypatch: pytest.MonkeyPatch, size: int, lora: Any, expected: Any
) -> None:
    world, asked = Alone(), []
    world.size = size
    monkeypatch.setattr(train_module, "compiles", lambda wanted, _: asked.append(wanted))
    settings = train_settings(lora=LoraSettings(**lora), compile="auto")
    with train_module._compiling(load(untied.student), settings, world, print) as seconds:
        assert seconds() == 0
    assert asked == [expected]
