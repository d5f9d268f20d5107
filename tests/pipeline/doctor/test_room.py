"""What a run needs is compared with what there is: what is certain is refused, estimates noted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tip.pipeline.doctor import room
from tip.pipeline.doctor.doctor import Finding, examine
from tip.pipeline.doctor.room import Room, memory_of
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.session import look_at

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
        monkeypatch.setattr(room, "memory_of", lambda _: Room(free, total))

    has(1 << 40, 1 << 40)
    assert found("memory").verdict == "ok"
    has(1, 1 << 40)
    tight = found("memory")
    assert tight.verdict == "warn"
    assert "rollout takes about" in tight.text
    assert "lower rollout.batch_size" in tight.text
    assert "lower train.batch_tokens, or set train.activation_checkpointing" in tight.text


def test_every_stage_of_a_plan_has_a_way_out(config: MakeConfig, problems: Path) -> None:
    asked = {"source": str(problems / "held_out.jsonl"), "template": "raw", "max_tokens": 8}
    stages: set[str] = set()
    for mode in ("joint", "separate"):
        plan = plan_of(look_at(config(evaluate=asked, score={"mode": mode})))
        stages |= {need.stage.split()[0] for need in plan.memory if need.least is not None}
    assert stages == room._SMALLER.keys()


def test_what_this_process_holds_is_not_asked_for_twice(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_of", lambda _: Room(1 << 29, 1 << 40))
    monkeypatch.setattr(room, "resident", lambda: 1 << 40)
    monkeypatch.setattr("tip.pipeline.plan.memory.resident", lambda: 1 << 40)
    assert found("memory").verdict == "ok"


def test_weights_that_no_memory_holds_fail(
    found: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_of", lambda _: Room(1000, 1000))
    small = found("memory")
    assert small.verdict == "fail"
    assert small.text.endswith("cpu has 1.0 kB: set student.dtype = 'bfloat16'")


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
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    free, total = memory_of(cpu)
    assert 0 < free <= total
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of(cpu).total == total
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\nfile 1500000\nshmem 500000\n")
    assert memory_of(cpu) == Room(3_000_000, 5_000_000)
