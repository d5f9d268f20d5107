"""What a run needs is compared with what there is: what is certain is refused, estimates noted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tip.pipeline.doctor.doctor import Finding, examine
from tip.pipeline.plan import target
from tip.pipeline.plan.memory import _LIBRARIES
from tip.pipeline.plan.target import Room, memory_of

from ..conftest import MakeConfig

CERTAIN = 100_992 * (2 * 2 + 12)  # of two checkpoints and a state; up to three are kept


@pytest.fixture
def found(config: MakeConfig) -> Callable[..., Finding]:
    def check(name: str, *, load: bool = False) -> Finding:
        train = {"batch_tokens": 64, "chunk_elements": 64}
        asked = config(train=train, score={"chunk_elements": 64})
        return next(f for f in examine(asked, load=load) if f.name == name)

    return check


def test_masters_that_no_memory_holds_fail_and_estimates_are_to_look_at(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    def has(free: int, total: int) -> None:
        monkeypatch.setattr(target, "memory_of", lambda _: Room(free, total))

    has(1 << 40, 1 << 40)
    assert found("memory").verdict == "ok"
    monkeypatch.setattr(target, "resident", lambda: 0)
    monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda: 0)
    has(_LIBRARIES + 3_000_000, 1 << 40)
    tight = found("memory")
    assert tight.verdict == "warn"
    assert "score takes about" in tight.text
    assert "free some, or set score.batch_tokens = 74, " in tight.text
    has(1, 1 << 40)
    assert "free some, or no setting alone makes it fit" in found("memory").text


def test_what_this_process_holds_is_not_asked_for_twice(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "memory_of", lambda _: Room(1 << 29, 1 << 41))
    monkeypatch.setattr(target, "resident", lambda: 1 << 40)
    monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda: 1 << 40)
    assert found("memory").verdict == "ok"


def test_weights_that_no_memory_holds_fail(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "memory_of", lambda _: Room(1000, 1000))
    small = found("memory")
    assert small.verdict == "fail"
    assert small.text.startswith("rollout takes 404.0 kB at the very least, and cpu has 1.0 kB: ")


def test_a_model_for_which_there_is_no_room_is_not_loaded(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.pipeline.doctor.at_work.memory_of", lambda _: Room(1000, 1 << 40))
    loaded = found("student loaded", load=True)
    assert loaded.verdict == "-"
    assert loaded.text == "not looked at: its weights take 404.0 kB, and 1.0 kB are free"


def test_weights_that_a_disk_does_not_hold_fail_and_tables_are_to_look_at(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = shutil.disk_usage("/")

    def free(size: int) -> Finding:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usual._replace(free=size))
        return found("disk")

    assert free(CERTAIN - 1).verdict == "fail"
    assert "or lower rounds or train.keep_states" in free(CERTAIN - 1).text
    assert free(CERTAIN).verdict == "warn"
    assert free(CERTAIN + (1 << 30)).verdict == "ok"


def test_a_process_has_no_more_memory_than_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(target, "_CGROUP", tmp_path)
    free, total = memory_of(cpu)
    assert 0 < free <= total
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of(cpu).total == total
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\nfile 1500000\nshmem 500000\n")
    assert memory_of(cpu) == Room(3_000_000, 5_000_000)
