"""Hundreds of rounds: the last ones cost what the first cost, and each command still answers."""

import gc
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tip.pipeline.compare import play as playing
from tip.pipeline.compare.checks import jobs_of
from tip.pipeline.compare.play import compare
from tip.pipeline.compare.rows import rows_of
from tip.pipeline.config.run import RunConfig
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, look_at, open_session
from tip.pipeline.show.listing import print_artifacts, print_sizes
from tip.pipeline.show.query import print_query
from tip.pipeline.show.status import print_run
from tip.pipeline.show.verify import verify_store
from tip.storage.errors import StoreError
from tip.storage.files import is_finished
from tip.storage.store.places import LocalPlace

from ..pipeline import conftest as pipeline
from ..pipeline.conftest import MakeConfig, contents, numbers

problems, shared, one_thread = pipeline.problems, pipeline.shared, pipeline.one_thread

# What a process keeps of a round: its lines of metrics (10 KB as Python holds them) and the names
# of the parts that it has seen whole (2 KB). Measured are 50 KB, the rest in the allocators of
# native libraries; a copy of the smallest model or a connection a round would be beyond.
KEPT_BYTES_A_ROUND = 96 << 10
MANY = 600
PART = MANY // 12  # rounds between two samples
# The least that a round can be: two prompts, one step. `horizon`: a longer run is the same run.
TINY = {
    "rollout": {"prompts": 2, "max_tokens": 4},
    "train": {"rollouts_per_step": 2, "horizon": 10_000},
}


@dataclass(frozen=True)
class Sample:
    """What a process and its folders hold after so many rounds."""

    rounds: int
    seconds: float
    """A round, since the last sample."""
    resident: int
    """Bytes, those in the swap as well."""
    handles: int
    threads: int
    temporary: int
    """Files below TMPDIR."""
    run_files: int
    store_files: int
    metrics: int
    """Bytes."""


class Watch(Reporter):
    """Takes a sample after each `every` rounds."""

    def __init__(self, config: RunConfig, every: int) -> None:
        super().__init__(quiet=True)
        self.store, self.run = Path(config.store), Path(config.runs, config.name)
        self.every, self.samples = every, list[Sample]()
        self.since = time.perf_counter()

    def say(self, text: str) -> None:
        done = re.match(r"round (\d+) +train ", text)
        if done and (int(done[1]) + 1) % self.every == 0:
            seconds = (time.perf_counter() - self.since) / self.every
            self.samples.append(self.sample(int(done[1]) + 1, seconds))
            self.since = time.perf_counter()

    def sample(self, rounds: int, seconds: float) -> Sample:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        return Sample(
            rounds=rounds,
            seconds=seconds,
            resident=sum(map(int, re.findall(r"Vm(?:RSS|Swap):\s+(\d+) kB", status))) << 10,
            handles=len(os.listdir("/proc/self/fd")),
            threads=len(os.listdir("/proc/self/task")),
            temporary=count(Path(tempfile.gettempdir())),
            run_files=count(self.run) - rounds,  # one a round: its pointers
            store_files=count(self.store),
            metrics=(self.run / "metrics.jsonl").stat().st_size,
        )


def count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


@pytest.fixture(autouse=True, scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give TMPDIR to this file alone."""
    before, folder = tempfile.tempdir, tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


def watched(config: RunConfig, every: int) -> tuple[Session, list[Sample]]:
    """Play a run and return what was measured meanwhile."""
    watch = Watch(config, every)
    session = open_session(config, watch)
    play(session)
    return session, watch.samples


def assert_same_counts(samples: Sequence[Sample]) -> None:
    """Assert that what must not grow has not grown between any two samples."""
    for name in ("handles", "threads", "temporary", "run_files"):
        assert len({getattr(sample, name) for sample in samples}) == 1, (name, samples)


def growth(samples: Sequence[Sample], name: str) -> float:
    """Return by how much a number grows a round."""
    rounds = [sample.rounds for sample in samples]
    return float(np.polyfit(rounds, [getattr(sample, name) for sample in samples], 1)[0])


def steps(samples: Sequence[Sample], name: str) -> set[int]:
    """Return by how much a number has grown from sample to sample."""
    values = [getattr(sample, name) for sample in samples]
    return {after - before for before, after in pairwise(values)}


def seconds(samples: Sequence[Sample], first: int, last: int) -> float:
    """Return the seconds a round of the usual sample of some rounds."""
    return float(np.median([s.seconds for s in samples if first < s.rounds <= last]))


def assert_late_rounds_take_what_early_ones_took(samples: Sequence[Sample], most: float) -> None:
    early, late = seconds(samples, PART, 3 * PART), seconds(samples, MANY - 2 * PART, MANY)
    assert late < most * early, samples


@pytest.mark.soak
def test_thirty_rounds_leave_nothing_behind_but_their_artifacts(shared: MakeConfig) -> None:
    _, samples = watched(shared("thirty", rounds=30, **TINY), 5)
    later = samples[1:]  # in the first rounds libraries start their threads
    assert_same_counts(later)
    assert len(steps(later, "store_files")) == 1
    assert later[-1].temporary == 0


@pytest.mark.soak
@pytest.mark.parametrize("evaluated", [False, True])
def test_three_hundred_rounds_cost_what_the_first_cost(
    shared: MakeConfig, problems: Path, evaluated: bool
) -> None:
    changes: dict[str, Any] = {
        "rounds": 300,
        "rollout": {"prompts": 8, "max_tokens": 16},
        "train": {"rollouts_per_step": 4},
    }
    if evaluated:
        changes["evaluate"] = {
            "source": str(problems / "held_out.jsonl"),
            "template": "raw",
            "temperature": 0,
            "max_tokens": 16,
            "limit": 8,
            "verifier": "exact",
            "every": 10,
        }
    _, samples = watched(shared(f"evaluated {evaluated}".replace(" ", "-"), **changes), 10)
    for sample in samples:
        print(sample)
    later = [sample for sample in samples if sample.rounds >= 50]
    assert_same_counts(later)
    assert len(steps(later, "store_files")) == 1
    assert growth(later, "resident") < KEPT_BYTES_A_ROUND
    assert max(steps(later, "metrics")) < 1.2 * min(steps(later, "metrics"))
    assert seconds(samples, 250, 300) < 1.5 * seconds(samples, 20, 70)


@pytest.mark.soak
def test_the_runs_of_a_comparison_leave_nothing_in_the_process_that_plays_them(
    shared: MakeConfig, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"source": str(problems / "held_out.jsonl"), "template": "raw", "temperature": 0}
    evaluate = {**asked, "max_tokens": 8, "limit": 8, "verifier": "exact"}
    settings = shared("rules", rounds=20, evaluate=evaluate, **TINY)
    # another seed than that of the 600 rounds, which would find some of these in the store
    jobs = jobs_of(settings, rows_of(["q3", "soft_or"], [0.2]), [1], Reporter(quiet=True))
    samples: list[Sample] = []

    def here(work: Callable[[Session], Any], config: RunConfig) -> Any:
        watch = Watch(config, 1)
        done = work(open_session(config))
        samples.append(replace(watch.sample(20 * (len(samples) + 1), 0.0), run_files=0))
        return done

    monkeypatch.setattr(playing, "_apart", here)
    assert len(compare(jobs, 1, Reporter(quiet=True))) == len(samples) == len(jobs)
    assert_same_counts(samples[1:])
    assert growth(samples[1:], "resident") < 2 * KEPT_BYTES_A_ROUND  # a session a run as well


@pytest.fixture(scope="module")
def many(shared: MakeConfig) -> Session:
    session, samples = watched(shared("many", rounds=MANY, **TINY), PART)
    assert_late_rounds_take_what_early_ones_took(samples, 1.5)
    return session


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the small files of a store that are read."""
    names: list[str] = []
    read = LocalPlace.read

    def noting(place: LocalPlace, name: str) -> bytes | None:
        names.append(name)
        return read(place, name)

    monkeypatch.setattr(LocalPlace, "read", noting)
    return names


def files(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.soak
def test_many_rounds_are_found_again_each_as_quickly_as_the_first(
    many: Session, reads: list[str]
) -> None:
    before, kept = contents(many), len(list(many.store.list()))
    reads.clear()
    again, samples = watched(many.config, PART)
    assert contents(again) == before
    assert len(list(again.store.list())) == kept
    fresh = [m["fresh"] for m in again.run.metrics() if m["stage"] == "train"]
    assert fresh == [True] * MANY + [False] * MANY
    assert_late_rounds_take_what_early_ones_took(samples, 2)


@pytest.mark.soak
def test_many_rounds_are_shown_planned_and_asked_with_work_that_grows_as_they_do(
    many: Session, reads: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = many.config
    print_run(many.run)
    assert len(capsys.readouterr().out.splitlines()) > MANY
    plan = plan_of(look_at(config))
    assert [line.trained for line in plan.rounds] == [True] * MANY
    assert plan.tokens == 0
    assert len(reads) < 10 * MANY  # not one for each pair of rounds
    print_sizes(config.store)
    print_artifacts(config.store, "selection")
    output = tmp_path / "answer.parquet"
    query = "SELECT round, count(*) AS tokens FROM tokens JOIN rollouts USING (round, rollout)"
    print_query(f"{query} GROUP BY round ORDER BY round", config.name, None, config.runs, output)
    answer = pl.read_parquet(output)
    assert answer["round"].to_list() == list(range(MANY))
    assert answer["tokens"].to_list() == numbers(many, "rollout", "tokens")[:MANY]


@pytest.mark.soak
def test_many_rounds_made_from_what_is_damaged_are_all_named(
    many: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    store, runs = many.config.store, many.config.runs
    verify_store(store, runs)
    assert "all whole" in capsys.readouterr().out
    first = many.run.round(0)
    assert first is not None
    checkpoint = many.store.find("checkpoint", str(first.checkpoint))
    assert checkpoint is not None
    weights = many.store.folder(checkpoint) / "model.safetensors"
    whole = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(StoreError, match=r"damaged and .* made from what is"):
            verify_store(store, runs)
        told = capsys.readouterr().out
    finally:
        weights.write_bytes(whole)
    named = [line.split()[-1] for line in told.splitlines() if line.startswith("made from")]
    kinds = ("rollouts", "teacher", "tokens", "selection", "checkpoint")
    later = [pointers for number, pointers in many.run.rounds() if number]
    expected = {key for pointers in later for kind in kinds for key in pointers.of(kind)}
    assert expected <= set(named)


@pytest.mark.soak
def test_many_rounds_go_on_branch_off_and_are_trained_again_where_states_are_gone(
    many: Session, shared: MakeConfig
) -> None:
    expected = contents(many)
    half = MANY // 2
    longer, _ = watched(shared("many", rounds=MANY + 20, **TINY), 10)
    after = contents(longer)
    assert {kind: keys[: len(expected[kind])] for kind, keys in after.items()} == expected
    assert len(after["checkpoint"]) == MANY + 20

    # All states are gone: the branch's are made again by the run that they belong to.
    shutil.rmtree(longer.run.path / "states")
    config = shared("branch", rounds=half + 5, **TINY)
    session = open_session(config)
    branch(session, f"many@{half}")
    play(session)
    ours = contents(session)
    for kind, hashes in ours.items():
        assert hashes == expected[kind][: len(hashes)], kind
    assert len(ours["checkpoint"]) == half + 5
    assert [m["fresh"] for m in session.run.metrics() if m["stage"] == "train"] == [False] * 5

    # The last one is made from what the branch has left, and no state in between is kept.
    last, _ = watched(shared("many", rounds=MANY + 21, **TINY), 1)
    assert contents(last)["checkpoint"][: MANY + 20] == after["checkpoint"]
    assert all(is_finished(path) for path in last.run.kept_states())
    assert len(last.run.kept_states()) <= 3
