"""Actors of a Ray cluster make what this process makes, also where some of them are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from tip.pipeline.actors import Share
from tip.pipeline.doctor.doctor import examine
from tip.pipeline.executors import crew as crew_module
from tip.pipeline.executors.actor import Actor, Terms
from tip.pipeline.executors.on_ray import OnRay
from tip.pipeline.progress import Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.storage.errors import ConfigError, DisagreementError, ModelError, StoreError, TipError
from tip.storage.store.seen import leave_mark
from tip.storage.store.store import Store

from ..conftest import Listening, MakeConfig, numbers, played
from .probes import AtHome, Loaded, Probe, Unsendable

RUN: dict[str, Any] = {"rounds": 1, "rollout": {"prompts": 96}}
TWO = {"executor": "ray", "actors": 2, "cpus": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Return the address of a cluster that says it has four CPUs; this process is connected."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="critical",
        object_store_memory=100 << 20,
    )
    signal.signal(signal.SIGTERM, before)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def started() -> Iterator[Callable[..., OnRay]]:
    """Return what starts an executor over a config, whose actors end with the test."""
    begun: list[OnRay] = []

    def start(config: Any, reporter: Any = None) -> OnRay:
        begun.append(OnRay(config, Store(config.store), reporter or Listening()))
        return begun[-1]

    yield start
    for executor in begun:
        executor.close()


@pytest.fixture(scope="module")
def two(cluster: str, shared: MakeConfig) -> Iterator[OnRay]:
    """Return an executor with two actors, whose reporter each test replaces with its own."""
    settings = shared(workers=TWO)
    executor = OnRay(settings, Store(settings.store), Listening())
    yield executor
    executor.close()


@pytest.fixture
def listened(two: OnRay) -> Listening:
    """Return what hears the executor of two actors."""
    two._reporter = Listening()
    if two._crew is not None:
        two._crew._reporter = two._reporter
    return two._reporter


@pytest.fixture(scope="module")
def here(shared: MakeConfig, asked: dict[str, object]) -> Session:
    """Return a run that was played in this process, with evaluations."""
    return played(shared(**RUN, evaluate=asked))


def actor_ids(executor: Any) -> list[int]:
    """Return the processes of the actors that are at work."""
    members = executor._crew._members
    return [m.greeting.process["pid"] for m in members if m.greeting and m.work is not None]


def whole(session: Session) -> dict[tuple[str, str], str]:
    """Return the content hashes of all that a store holds."""
    return {(a.kind, a.key): a.content for a in session.store.list()}


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_two_actors_make_what_this_process_makes(
    cluster: str, config: MakeConfig, asked: dict[str, object], tmp_path: Path, mode: str
) -> None:
    changes = {"evaluate": asked | {"reverse_kl": True}, "score": {"mode": mode}}
    one = played(config(**changes))
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    two = played(config(workers=TWO, **changes, **elsewhere))
    assert whole(two) == whole(one)
    for stage, name in (("evaluate", "accuracy"), ("train", "loss"), ("score", "reverse_kl")):
        assert numbers(two, stage, name) == numbers(one, stage, name)


class Killing(Listening):
    """Kills an actor that is at work, once in a bar with each of some titles."""

    def __init__(self, titles: set[str]) -> None:
        super().__init__()
        self.titles, self.executor = titles, None

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Tick]:
        with super().bar(title, total, unit) as note:

            def tick(count: int) -> None:
                note(count)
                if title in self.titles:
                    self.titles.remove(title)
                    os.kill(actor_ids(self.executor)[0], signal.SIGKILL)

            yield tick


@pytest.mark.soak  # below a work is lost that takes no model
def test_what_a_killed_actor_had_another_one_makes_the_same(
    cluster: str,
    here: Session,
    config: MakeConfig,
    asked: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = {"store": "here/store", "runs": "here/runs"}
    reporter = Killing({"round 0 rollout", "round 0 score"})
    session = open_session(config(**RUN, evaluate=asked, workers=TWO, **relative), reporter)
    reporter.executor = session.executor
    play(session)
    assert reporter.titles == set()
    lost = [line for line in reporter.said if " is lost with work " in line]
    assert len(lost) == 2, reporter.said
    assert whole(session) == whole(here)
    assert (tmp_path / "here" / "store" / "tokens").is_dir()
    most = session.config.rollout.max_tokens, session.config.evaluate.max_tokens  # type: ignore
    for title, total in (("round 0 rollout", 96 * most[0]), ("round 1 evaluate", 40 * most[1])):
        assert sum(reporter.ticks[title]) == total
    assert sum(reporter.ticks["round 0 score"]) == numbers(here, "score", "tokens")[0]
    assert capfd.readouterr().out == ""  # Ray prints of each death, whatever it is told
    # of what is there nothing is asked of a cluster
    again = open_session(session.config, Listening())
    play(again)
    assert again.executor._cluster is None  # type: ignore[attr-defined]


def test_the_longest_begin_first_and_results_come_in_order(
    cluster: str, config: MakeConfig, started: Callable[..., OnRay], tmp_path: Path
) -> None:
    executor = started(config(workers=TWO | {"actors": 1}))
    sizes, log = [3, 9, 1, 7], tmp_path / "log"
    assert executor.map([Probe(size, log) for size in sizes], "probe") == [(s,) for s in sizes]
    assert [int(line) for line in log.read_text().split()] == [9, 7, 3, 1]


def test_a_lost_work_is_done_again_and_its_ticks_are_taken_back(
    two: OnRay, listened: Listening, tmp_path: Path
) -> None:
    works = [Probe(5), Probe(8, dies=tmp_path / "died"), Probe(2)]
    assert two.map(works, "probe") == [(5,), (8,), (2,)]
    assert sum(listened.ticks["probe"]) == 15
    assert -8 in listened.ticks["probe"]
    (said,) = [line for line in listened.said if " is lost with " in line]
    assert said.startswith("note: probe: an actor on ")
    assert "is lost with work 2 of 3 (8 shards), which another one does again: its worker" in said


def test_what_all_engines_say_is_said_once(two: OnRay, listened: Listening) -> None:
    works = [Probe(1, lines=("note: the same",)), Probe(1, lines=("note: the same", "another"))]
    two.map(works, "probe")
    assert sorted(listened.said) == ["another", "note: the same"]


def test_actors_of_this_host_drop_their_models_before_it_trains(
    two: OnRay, config: MakeConfig
) -> None:
    student = open_session(config()).student(0)
    assert two.map([Loaded(weights=student)] * 2, "probe") == [(1,), (1,)]
    assert two.map([AtHome()], "train") == [(os.getpid(),)]
    assert two.map([Loaded()] * 2, "probe") == [(0,), (0,)]


@pytest.mark.soak
def test_a_work_that_costs_several_actors_ends_the_run_with_its_name(
    two: OnRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "_MOST_LOSSES", 2)
    with pytest.raises(TipError, match=r"probe: work 1 of 2 \(4 shards\) was lost .* 2 times"):
        two.map([Probe(4, always=True), Probe(1)], "probe")
    # and the executor is used again
    assert two.map([Probe(3)], "probe") == [(3,)]


@pytest.mark.parametrize(
    ("raises", "kind", "text"),
    [
        (partial(DisagreementError, "as it is"), DisagreementError, "as it is"),
        (partial(Unsendable, "a", "b"), RuntimeError, "Unsendable: a b"),
    ],
)
def test_an_error_arrives_as_it_was_raised(
    two: OnRay,
    raises: Callable[[], Exception],
    kind: type[Exception],
    text: str,
) -> None:
    with pytest.raises(kind) as raised:
        two.map([Probe(raises=raises)], "probe")
    assert (type(raised.value), str(raised.value)) == (kind, text)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (
            {"actors": 3, "cpus": 2},
            "workers.actors = 3 of 2 CPUs each, but this host has room for 2: 4 CPUs and 0 GPUs "
            "on 1 host; lower workers.actors, cpus (or threads) or gpus, or add hosts",
        ),
        ({"cpus": 5}, "an actor of 5 CPUs, but this host has room for 0: 4 CPUs and 0 GPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    cluster: str,
    config: MakeConfig,
    started: Callable[..., OnRay],
    workers: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        started(config(workers={"executor": "ray", **workers})).map([Probe()], "probe")


def test_the_doctor_looks_at_a_cluster_that_is_there_and_leaves_it_there(
    cluster: str, config: MakeConfig
) -> None:
    def found(**workers: Any) -> dict[str, Any]:
        settings = config(workers={"executor": "ray", "address": cluster, **workers})
        return {finding.name: finding for finding in examine(settings, load=False)}

    well = found(actors=2)
    assert well["workers"].text == f"actors of 1 CPU each, 2 of them, in the cluster at {cluster}"
    assert well["cluster"].text == "4 CPUs and 0 GPUs on 1 host, room for 2 actors"
    assert (ray.is_initialized(), well["run"].verdict) == (True, "ok")
    full = found(actors=9)["cluster"]
    assert (full.verdict, full.text[:30]) == ("fail", "workers.actors = 9 of 1 CPU ea")
    assert found(gpus=1)["workers"].verdict == "fail"


def test_a_cluster_that_is_not_there_is_named(config: MakeConfig) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        program = [sys.executable, "-c", CONNECT, address]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"workers.address = '{address}': no Ray cluster answers there (")
    assert done.stderr == ""


def test_a_cluster_without_gpus_is_no_place_for_actors_that_need_one(
    cluster: str, config: MakeConfig, started: Callable[..., OnRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "share_of", lambda _: Share(1, 1.0, 1, "cuda"))
    with pytest.raises(ConfigError, match=r"an actor of 1 CPU and 1 GPU, but .* room for 0"):
        started(config(workers={"executor": "ray"})).map([Probe()], "probe")


def test_a_store_that_is_another_one_there_is_named(
    cluster: str, config: MakeConfig, started: Callable[..., OnRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "leave_mark", lambda _: f".probes/{'0' * 32}")
    executor = started(config(workers=TWO))
    with pytest.raises(StoreError, match=r"store = '.*' is not on .* what it is where the run was"):
        executor.map([Probe()], "probe")


def test_hosts_with_other_models_or_another_version_are_named(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an actor goes to where the run was started
    settings = config()
    mark = leave_mark(Store(settings.store))
    terms = Terms(settings.model_dump_json(), str(tmp_path), ("models/nowhere",), mark)
    with pytest.raises(ModelError, match="models/nowhere: no such folder on "):
        Actor().begin(terms)
    with pytest.raises(ConfigError, match=r"but the run is played by 0\.0: install the same"):
        Actor().begin(replace(terms, version="0.0"))


CONNECT = """
import sys
from tip.pipeline.executors.cluster import Cluster
from tip.storage.errors import ConfigError
try:
    Cluster(sys.argv[1])
except ConfigError as error:
    print(error)
"""

PLAY = """
import sys
from pathlib import Path
from tip.pipeline.config.run import RunConfig
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
session = open_session(RunConfig.model_validate_json(Path(sys.argv[1]).read_text()), Reporter())
play(session)
"""


@pytest.mark.soak
def test_a_driver_that_was_killed_takes_its_actors_along_and_the_next_one_goes_on(
    cluster: str, here: Session, config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    workers = TWO | {"address": cluster}
    settings = config(**RUN, evaluate=asked, workers=workers)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    driver = subprocess.Popen([sys.executable, "-c", PLAY, str(tmp_path / "config.json")])
    store = Store(settings.store)
    try:
        until = time.monotonic() + 60
        while not any(store.list("rollouts")):
            assert driver.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    session = open_session(settings, Listening())
    play(session)
    assert whole(session) == whole(here)
    made = numbers(session, "rollout", "generated_tokens")
    assert 0 < made[-1] < numbers(here, "rollout", "generated_tokens")[0]
