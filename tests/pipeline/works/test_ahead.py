"""Shards are claimed before an engine begins them: two processes never generate the same ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tip.pipeline.works.ahead import Generation
from tip.stages.engines.protocols import Request, Sampling
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.holder import Held, InVllm
from tip.stages.models.card import ModelCard
from tip.stages.models.weights import Weights
from tip.storage.errors import ModelError
from tip.storage.store.claims import Patience
from tip.storage.store.store import Draft, Pending, Store

SAMPLING = Sampling(1.0, 1.0, 0, 8, (1,), 0)
SHARDS = [[Request((1, 2), 10 * s + i) for i in range(4)] for s in range(6)]
INPUTS: list[dict[str, Any]] = [{"shard": n} for n in range(len(SHARDS))]
QUICK = Patience(beat_seconds=0.04, silence_seconds=0.4)


class Engine:
    """Notes what it is told, and checks that what it begins is claimed."""

    def __init__(self, root: Path) -> None:
        self.looking = Store(root, patience=QUICK)
        self.begun: list[int] = []
        self.dropped: list[int] = []

    def prefetch(self, requests: list[Request], sampling: Sampling) -> None:
        shard = requests[0].rollout // 10
        assert self.looking.begin("rollouts", INPUTS[shard], wait=False) is None, "not claimed"
        self.begun.append(shard)

    def abort(self, requests: list[Request], sampling: Sampling) -> None:
        self.dropped.append(requests[0].rollout // 10)


class Holder:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generator(self, *_: Any) -> Held:
        return Held(self.engine)  # type: ignore[arg-type]


def generation(root: Path, rows: int) -> tuple[Engine, Generation, Store]:
    card = ModelCard(root, "f", (1,), (1,), 8, 64, root)
    spec = EngineSpec(root, "float32", "cpu", 16, rows, 8, 8)
    wanted = InVllm(Weights("student", card, "f", "float32"), spec, ())
    engine, store = Engine(root), Store(root, patience=QUICK)
    holder: Any = Holder(engine)
    return engine, Generation(wanted, SHARDS, SAMPLING, holder, store), store


def making(engine: Engine, log: list[tuple[int, list[int]]]) -> Any:
    def make(shard: int) -> Any:
        def write(draft: Draft) -> dict[str, Any]:
            log.append((shard, list(engine.begun)))
            return {}

        return write

    return make


def test_the_next_shards_are_begun_ahead_and_no_more_than_fill_two_batches(tmp_path: Path) -> None:
    engine, work, _ = generation(tmp_path, rows=4)
    log: list[tuple[int, list[int]]] = []
    made = work.ensure("rollouts", INPUTS, making(engine, log))
    assert all(each.fresh for each in made)
    assert [shard for shard, _ in log] == list(range(6))
    assert [len(begun) for _, begun in log] == [3, 4, 5, 6, 6, 6]  # itself, and two batches more
    assert engine.begun == list(range(6))


def test_what_is_there_is_neither_begun_nor_made(tmp_path: Path) -> None:
    engine, work, store = generation(tmp_path, rows=100)
    store.ensure("rollouts", INPUTS[2], lambda _: {})
    made = work.ensure("rollouts", INPUTS, making(engine, []))
    assert [each.fresh for each in made] == [n != 2 for n in range(6)]
    assert engine.begun == [0, 1, 3, 4, 5]


def test_a_shard_that_another_process_makes_is_waited_for_and_not_begun(tmp_path: Path) -> None:
    engine, work, store = generation(tmp_path, rows=100)
    other = store.begin("rollouts", INPUTS[1], wait=False)
    assert isinstance(other, Pending)
    log: list[tuple[int, list[int]]] = []

    def make(shard: int) -> Any:
        if shard == 5:  # meanwhile the other process has it
            other.make(lambda _: {})
        return making(engine, log)(shard)

    made = work.ensure("rollouts", INPUTS, make)
    assert [each.fresh for each in made] == [n != 1 for n in range(6)]
    assert 1 not in engine.begun


def test_an_error_lets_all_claims_go_and_drops_what_was_begun(tmp_path: Path) -> None:
    engine, work, store = generation(tmp_path, rows=100)

    def make(shard: int) -> Any:
        def write(_: Draft) -> dict[str, Any]:
            raise RuntimeError("broken")

        return write

    with pytest.raises(RuntimeError, match="broken"):
        work.ensure("rollouts", INPUTS, make)
    assert sorted(engine.dropped) == list(range(6))
    assert list(store.place.entries("")) == []


def test_the_error_of_an_engine_that_failed_is_the_one_that_is_told(tmp_path: Path) -> None:
    engine, work, store = generation(tmp_path, rows=100)

    def closed(*_: Any) -> None:
        raise ModelError("its vLLM process has been closed")

    engine.abort = closed  # type: ignore[method-assign]

    def make(shard: int) -> Any:
        def write(_: Draft) -> dict[str, Any]:
            raise ModelError("killed, maybe for its memory")

        return write

    with pytest.raises(ModelError, match="killed, maybe for its memory"):
        work.ensure("rollouts", INPUTS, make)
    assert list(store.place.entries("")) == [], "claims are let go"


def test_the_embedded_engine_claims_one_shard_at_a_time(tmp_path: Path) -> None:
    from tip.stages.holder import Embedded

    engine, work, _ = generation(tmp_path, rows=100)
    work._generator = Embedded(work._generator.weights, 8)
    log: list[tuple[int, list[int]]] = []
    work.ensure("rollouts", INPUTS, making(engine, log))
    assert [len(begun) for _, begun in log] == [1, 2, 3, 4, 5, 6]
    assert np.all(np.diff(engine.begun) == 1)
