"""The comparison: shared first rounds, controls always there, nothing played twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tip.pipeline.compare import play as playing
from tip.pipeline.compare.checks import Job, jobs_of
from tip.pipeline.compare.choices import tables_of
from tip.pipeline.compare.play import Outcome, ask_teacher, compare, try_rates
from tip.pipeline.compare.rows import ALL, RANDOM, Row, rows_of
from tip.pipeline.config.run import RunConfig
from tip.pipeline.progress import Reporter, peak_memory
from tip.pipeline.session import Session, look_at, open_session
from tip.stages.models import fingerprint
from tip.storage.errors import ConfigError, NumericsError, TipError
from tip.storage.runs import RunFolder

from ..conftest import MakeConfig

QUIET = Reporter(quiet=True)

Work = Callable[[Session], Any]


def played_here(work: Work, config: RunConfig) -> Any:
    return work(open_session(config))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Play in this process, which saves the start of another; return the names of what played."""
    names: list[str] = []

    def work_here(work: Work, config: RunConfig) -> Any:
        names.append(config.name)
        return played_here(work, config)

    monkeypatch.setattr(playing, "_apart", work_here)
    return names


def run_of(job: Job) -> RunFolder:
    return RunFolder(job.config.runs, job.config.name)


def values(outcome: Outcome) -> list[tuple[int, float]]:
    """Return the accuracies of a run by its steps."""
    return [(steps, evaluation.accuracy) for steps, evaluation in outcome.curve]


def everything(config: RunConfig) -> dict[Path, tuple[int, bytes]]:
    """Return when each file of store and runs was written last, and what is in it."""
    files = [p for root in (config.store, config.runs) for p in Path(root).rglob("*")]
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files if p.is_file()}


def test_rows_of_a_seed_share_their_first_round_and_a_second_start_plays_nothing(
    config: MakeConfig, asked: dict[str, object], here: list[str]
) -> None:
    settings = config(evaluate=asked, rounds=2, rollout={"prompts": 32})
    rows = rows_of(["q3"], [0.2])
    jobs = jobs_of(settings, rows, [0, 1], QUIET)
    teacher = ask_teacher(jobs[0].config, QUIET)
    outcomes = compare(jobs, 1, QUIET)
    scored = {(o.row.name, o.seed): o.teacher_scored for o in outcomes}
    assert scored["q3 20%", 0] < scored["all", 0]
    assert all(len(o.curve) == 3 for o in outcomes if o.row.refresh)
    assert len(here) == 1 + len(jobs)  # the teacher, then each run

    before = everything(jobs[0].config)
    same_teacher, again = ask_teacher(jobs[0].config, QUIET), compare(jobs, 1, QUIET)
    assert len(here) == 1 + len(jobs)
    assert everything(jobs[0].config) == before, "a look writes nothing"
    assert same_teacher == teacher
    assert [(values(o), o.teacher_scored) for o in again] == [
        (values(o), o.teacher_scored) for o in outcomes
    ]
    results = tables_of(rows, look_at(jobs[0].config), settings.select, 4)
    overlap = results["common tokens at 20%"]
    assert overlap.filter(pl.col("rule") == "q3")["q3"].item() == 1.0
    shares = results["where the types lie"]
    assert shares["share"].sum() == pytest.approx(1)
    assert results["oracle"]["top_share"].max() > 0.5


def test_an_edited_rule_is_not_taken_for_the_one_that_was_played(
    config: MakeConfig, asked: dict[str, object], here: list[str], tmp_path: Path
) -> None:
    rule = tmp_path / "mine.sql"
    rule.write_text("SELECT *, reverse_kl AS importance FROM tokens")
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    jobs = jobs_of(settings, [Row(ALL, 1.0), Row(str(rule), 0.2)], [0], QUIET)
    compare(jobs, 1, QUIET)
    rule.write_text("SELECT *, -reverse_kl AS importance FROM tokens")
    with pytest.raises(ConfigError, match=r"select.rule = .*mine.sql' names has changed"):
        compare(jobs, 1, QUIET)


def test_costs_are_those_of_the_runs_own_rounds_and_stages(
    config: MakeConfig, asked: dict[str, object], here: list[str]
) -> None:
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    jobs = jobs_of(settings, [Row(ALL, 1.0)], [0], QUIET)
    before = compare(jobs, 1, QUIET)[0]
    foreign = {"seconds": 1e6, "peak_memory_mb": 1 << 30}
    run_of(jobs[0]).append({"round": 0, "stage": "evaluate teacher", "accuracy": 0.0, **foreign})
    run_of(jobs[0]).append({"round": 1, "stage": "rollout", **foreign})
    run_of(jobs[0]).append({"round": 2, "stage": "train", "steps": 9, **foreign})
    after = compare(jobs, 1, QUIET)[0]
    assert values(after) == values(before)
    assert after.seconds < 1000
    assert after.peak_memory_mb < 1 << 20


def test_the_teacher_is_asked_first_and_not_at_all_where_a_server_holds_it(
    config: MakeConfig, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    order: list[str] = []

    def look_on(work: Work, config: RunConfig) -> Any:
        order.append(work.__name__)
        raise TipError("stop")

    monkeypatch.setattr(playing, "_apart", look_on)
    with pytest.raises(TipError, match="stop"):
        ask_teacher(settings, QUIET)
    served = config(
        evaluate=asked,
        score={"engine": "server", "mode": "separate"},
        teacher={"server": {"url": "http://localhost:1"}},
    )
    assert ask_teacher(served, QUIET) is None
    assert order == ["evaluate_teacher"]


def test_a_rate_at_which_nothing_is_finite_stops_no_other(
    config: MakeConfig, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    rows = [Row(ALL, 1.0), Row(ALL, 1.0, ("train.lr=3",))]

    def play(session: Session) -> None:
        if session.config.train.lr == 3:
            raise NumericsError("not finite")
        really(session)

    really = playing.play
    monkeypatch.setattr(playing, "play", play)
    monkeypatch.setattr(playing, "_apart", played_here)
    found = try_rates(jobs_of(settings, rows, [0], QUIET), 1, QUIET)
    assert [outcome is None for outcome in found] == [False, True]
    with pytest.raises(NumericsError):
        compare(jobs_of(settings, rows, [0], QUIET), 1, QUIET)


def test_where_weights_were_never_hashed_here_they_are_and_nothing_is_played_again(
    config: MakeConfig,
    asked: dict[str, object],
    here: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    jobs = jobs_of(settings, [Row(ALL, 1.0)], [0], QUIET)
    first = compare(jobs, 1, QUIET)
    here.clear()
    before = everything(settings)
    monkeypatch.setattr(fingerprint, "_hashed", {})
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert list(map(values, compare(jobs, 1, QUIET))) == list(map(values, first))
    assert here == []
    assert everything(settings) == before


def test_workers_make_what_one_makes_each_run_with_a_memory_of_its_own(
    config: MakeConfig,
    asked: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ballast = b"x" * (1 << 30)
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    rows = [Row(ALL, 1.0), Row(RANDOM, 0.2)]
    together = compare(jobs_of(settings, rows, [0], QUIET), 2, QUIET)
    assert len(ballast) >> 20 < peak_memory(torch.device("cpu"))["peak_memory_mb"]
    assert all(100 < o.peak_memory_mb < len(ballast) >> 20 for o in together)
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    settings = settings.model_copy(update=elsewhere)
    monkeypatch.setattr(playing, "_apart", played_here)
    alone = compare(jobs_of(settings, rows, [0], QUIET), 1, QUIET)
    assert list(map(values, alone)) == list(map(values, together))
