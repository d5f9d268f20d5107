"""A cluster of several nodes, on this machine: one that is taken away costs no shard."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from tip.pipeline.progress import Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session

from ..conftest import Listening, MakeConfig, played
from .probes import AtHome, Loaded
from .test_on_ray import RUN, TWO, whole

pytestmark = pytest.mark.soak

ARGUMENTS = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """Return a cluster of two nodes with a CPU each, to which this process is connected."""
    before = signal.getsignal(signal.SIGTERM)
    arguments = ARGUMENTS | {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    cluster.add_node(**ARGUMENTS)
    ray.init(cluster.address, log_to_driver=False, logging_level="critical")
    signal.signal(signal.SIGTERM, before)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


class Taking(Listening):
    """Takes the second node away while its actor is at work."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster, self.executor = cluster, None
        self.taken: Any = None

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        with super().bar(title, total, unit) as note:

            def tick(count: int) -> None:
                note(count)
                away = self.executor._cluster.node  # type: ignore[attr-defined]
                members = self.executor._crew._members  # type: ignore[attr-defined]
                far = [m for m in members if m.greeting and m.greeting.node != away]
                if not self.taken and any(m.work is not None for m in far):
                    self.taken = far[0].greeting
                    self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), False)

            yield tick


def test_what_a_node_had_that_is_gone_another_one_makes_the_same(
    nodes: Cluster, config: MakeConfig, tmp_path: Any
) -> None:
    changes = RUN | {"rollout": {"prompts": 192}}
    once = played(config(**changes))
    reporter = Taking(nodes)
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    session = open_session(config(**changes, workers=TWO, **elsewhere), reporter)
    reporter.executor = session.executor  # type: ignore[assignment]
    play(session)
    assert reporter.taken is not None
    until = time.monotonic() + 30
    while len(alive()) > 1:  # Ray notices it by and by
        assert time.monotonic() < until
        time.sleep(0.2)
    assert [node["NodeID"] for node in alive()] == [ray.get_runtime_context().get_node_id()]
    assert whole(session) == whole(once)


def test_actors_of_other_nodes_keep_their_models_while_this_one_trains(
    nodes: Cluster, config: MakeConfig
) -> None:
    session = open_session(config(workers=TWO))
    try:
        executor, student = session.executor, session.student(0)
        loaded: list[Any] = executor.map([Loaded(weights=student)] * 2, "probe")
        assert loaded == [(1,), (1,)]
        executor.map([AtHome()], "train")
        kept: list[Any] = executor.map([Loaded()] * 2, "probe")
        assert sorted(kept) == [(0,), (1,)]
    finally:
        session.executor.close()
