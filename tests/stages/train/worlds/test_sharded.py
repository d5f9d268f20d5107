"""Two processes train what one trains, whatever is cut, killed or read by another number of them.

Float32 and a rate at which weights move: losses within 1e-5, and final weights within 1e-3 of the
distance that training moved them.
"""

import contextlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny import load
from tiny_training import Round, distance, train_settings, weights
from tip.pipeline.works.ranks import run_ranks
from tip.stages.train.totals import Totals
from tip.stages.train.train import train
from tip.stages.train.worlds.sharded import Sharded
from tip.stages.train.worlds.world import World

STEPS = 5  # of the rounds here, at most


class Ended(Exception):
    """A training broken off."""


def trained(
    made: Round,
    folder: Path,
    world: World | None,
    stop: int | None,
    rate: float = 1e-2,
    **changes: Any,
) -> tuple[Totals, dict[str, torch.Tensor]]:
    """Train; break off after some steps, a snapshot being taken after each."""
    student, left = load(made.student), [math.inf if stop is None else stop]

    def tick(count: int) -> None:
        left[0] -= count
        if left[0] < 0:
            raise Ended

    totals = train(
        student,
        made.data,
        train_settings(snapshot_seconds=0, clip=0.5, **changes),
        (rate,) * STEPS,
        autocast=torch.float32,
        seed=0,
        start=None,
        state=folder / "state",
        snapshot=folder / "snapshot",
        key="k",
        world=world,
        tick=tick,
    )
    return totals, weights(student)


@dataclass(frozen=True)
class Job:
    """A training in a folder; `stop`: after how many steps it is broken off."""

    made: Round
    folder: Path
    stop: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def run(self, world: World | None = None) -> None:
        with contextlib.suppress(Ended):
            trained(self.made, self.folder, world, self.stop, **self.changes)

    def shows_the_same(self) -> None:
        """Hold the state that was left against one process's training."""
        assert (self.folder / "state").is_dir()
        before = weights(load(self.made.student))
        alone = self.folder / "alone"
        # what is read was trained by the others: at a rate of 0 nothing would move
        expected, whole = trained(self.made, alone, None, None, **self.changes)
        totals, found = trained(self.made, self.folder, None, None, rate=0.0, **self.changes)
        assert totals.losses == pytest.approx(expected.losses, abs=1e-5)
        assert totals.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert totals.mass == pytest.approx(expected.mass, rel=1e-5)
        assert totals.trained_tokens == expected.trained_tokens
        moved = distance(whole, before)
        assert moved > 1e-3
        gap = distance(found, whole)
        assert gap < 1e-3 * moved


def _rank(jobs: list[Job], rank: int, size: int, address: str, *_: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    try:
        for job in jobs:
            job.run(Sharded(torch.device("cpu")))
    finally:
        dist.destroy_process_group()


def by_ranks(size: int, folder: Path, jobs: list[Job]) -> None:
    """Run trainings one after the other, each by all of the same processes."""
    run_ranks(_rank, jobs, size, folder / "logs", print, print)


@pytest.fixture(scope="module")
def jobs(untied: Round, tied: Round, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """Return trainings that two processes, started once, have done or ended."""
    folder = tmp_path_factory.mktemp("two")
    made = {
        "plain": Job(untied, folder / "plain"),
        "a step is one micro-batch": Job(tied, folder / "wide", None, {"batch_tokens": 100_000}),
        "a rollout is a micro-batch": Job(tied, folder / "narrow", None, {"batch_tokens": 1}),
        "steps of two": Job(
            untied, folder / "small", None, {"rollouts_per_step": 2, "normalise": "total"}
        ),
        "checkpointing": Job(tied, folder / "again", None, {"activation_checkpointing": True}),
        "killed": Job(tied, folder / "killed"),
        "begun by one": Job(tied, folder / "one"),
        "ended by one": Job(tied, folder / "two"),
    }
    replace(made["begun by one"], stop=1).run()
    broken_off = [replace(made[name], stop=1) for name in ("killed", "ended by one")]
    by_ranks(2, folder, [*broken_off, *(j for n, j in made.items() if n != "ended by one")])
    left = made["ended by one"]
    assert (left.folder / "snapshot").is_dir()
    assert not (left.folder / "state").exists()
    left.run()
    return made


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "a step is one micro-batch",
        "a rollout is a micro-batch",
        "steps of two",
        "checkpointing",
        "killed",
        "begun by one",
        "ended by one",
    ],
)
def test_two_processes_train_what_one_trains(jobs: dict[str, Job], name: str) -> None:
    jobs[name].shows_the_same()


@pytest.mark.soak
def test_what_three_processes_began_two_end(tied: Round, tmp_path: Path) -> None:
    job = Job(tied, tmp_path)
    by_ranks(3, tmp_path, [replace(job, stop=1)])
    assert not (tmp_path / "state").exists()
    by_ranks(2, tmp_path, [job])
    job.shows_the_same()
