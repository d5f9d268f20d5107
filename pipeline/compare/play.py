"""Which tokens matter for a pair of models: rules x budgets x seeds, from shared artifacts.

Within a seed all rows share prompts, noise, the first rollouts and their teacher signals; then
each goes on-policy on its own. Seeds share nothing but the models. Beside the rules stand the
controls: all tokens, random tokens at each budget, and no refresh (every rollout from the first
student). Runs are ordinary runs: they resume, and what exists is not played again.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from ...stages.engines.protocols import Spared, Tick
from ...storage.errors import NumericsError
from ...storage.runs import RunFolder
from ..config.run import RunConfig
from ..executors.finder import LackingError
from ..executors.own_process import in_own_process, tell_all_to_end
from ..inputs import Inputs
from ..metrics import EvaluateMetrics, by_round, costs
from ..progress import Reporter
from ..rounds.play import play
from ..rounds.single import evaluate_teacher
from ..session import Session, look_at, open_session
from ..stability import rounds_that_lost_ground
from .checks import Job
from .rows import Row

_GLANCE = 0.5  # seconds between two looks at whether all runs have ended


@dataclass(frozen=True)
class Outcome:
    """What a run came to; tokens and seconds summed over its rounds.

    peak_gpu_memory_mb: None where no GPU was used. lost_ground: whether the student lost, in a
    round, what it was not trained on. curve: evaluations by optimiser steps, the first before any.
    """

    row: Row
    seed: int
    lr: float
    trained_tokens: int
    teacher_scored: int
    teacher_reused: int
    seconds: float
    peak_memory_mb: int
    peak_gpu_memory_mb: int | None
    lost_ground: bool
    curve: tuple[tuple[int, EvaluateMetrics], ...]

    @property
    def result(self) -> EvaluateMetrics:
        """Return the evaluation after the last round."""
        return self.curve[-1][1]


def ask_teacher(config: RunConfig, reporter: Reporter) -> EvaluateMetrics | None:
    """Return the teacher's answers to the problems, None where a server holds it.

    Asked before any run: what is wrong with it shows before hours of work. Nobody can ask a server.
    """
    if config.teacher.server is not None:
        return None
    teacher = _each(evaluate_teacher, [config], 1, lambda _: None)[0]
    reporter.say(f"teacher: accuracy {teacher.accuracy:.1%}")
    return teacher


def compare(jobs: Sequence[Job], workers: int, reporter: Reporter) -> list[Outcome]:
    """Play all runs, `workers` at a time; return what they came to."""
    played = _all(_play, jobs, workers, reporter, "compare")
    return [_outcome(job, lines) for job, lines in zip(jobs, played, strict=True)]


def try_rates(jobs: Sequence[Job], workers: int, reporter: Reporter) -> list[Outcome | None]:
    """Play runs as `compare` does; None for one whose numbers were not finite at its rate."""
    played = _all(_try, jobs, workers, reporter, "learning rates")
    return [
        _outcome(job, lines) if lines else None for job, lines in zip(jobs, played, strict=True)
    ]


def _all(
    work: Callable[[Session], Any],
    jobs: Sequence[Job],
    workers: int,
    reporter: Reporter,
    title: str,
) -> list[Any]:
    with reporter.bar(title, len(jobs), "runs") as tick:
        return _each(work, [job.config for job in jobs], workers, tick)


def _play(session: Session) -> list[dict[str, Any]]:
    """Play a run to its end and return the metrics of this start: a line for each of its stages."""
    before = len(session.run.metrics())
    play(session)
    return session.run.metrics()[before:]


def _try(session: Session) -> list[dict[str, Any]]:
    """Play a run; return nothing where its numbers were not finite."""
    try:
        return _play(session)
    except NumericsError:
        return []


def _each(
    work: Callable[[Session], Any], configs: Sequence[RunConfig], workers: int, tick: Tick
) -> list[Any]:
    """Return what `work` gives for each run, doing only what is not in the store."""
    results = [_found(work, config) if has_ended(config) else None for config in configs]
    if any(r is None and has_ended(c) for r, c in zip(results, configs, strict=True)):
        # perhaps only since its weights were never hashed here: whoever plays has to
        for config in configs:
            inputs = Inputs(config, Reporter(quiet=True))
            _ = inputs.student_card, inputs.teacher_card
        results = [_found(work, c) if has_ended(c) else None for c in configs]
    missing = [place for place, result in enumerate(results) if result is None]
    tick(Spared(len(configs) - len(missing)))
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_apart, work, configs[place]): place for place in missing}
        try:
            for done in as_completed(waiting):
                results[waiting[done]] = done.result()
                tick(1)
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BaseException:  # this program is to end: whatever plays is told, and waited for
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(run.done() for run in waiting):
                tell_all_to_end()  # again: a thread may have been about to start one
                time.sleep(_GLANCE)
            raise
    return results


def _apart(work: Callable[[Session], Any], config: RunConfig) -> Any:
    return in_own_process(_in_process, (work, config.model_dump_json()), f"run {config.name}")


def _in_process(given: tuple[Callable[[Session], Any], str]) -> Any:
    work, text = given
    return work(open_session(RunConfig.model_validate_json(text)))


def _found(work: Callable[[Session], Any], config: RunConfig) -> Any:
    """Return what work gives if all it needs is in the store, else None; nothing is written.

    Every key is computed again: an edited rule, prompt, problem or model is met as in a first play.
    """
    try:
        return work(look_at(config))
    except LackingError:
        return None


def has_ended(config: RunConfig) -> bool:
    """Tell whether a run of this name once got to its end: then it is worth a look in the store."""
    metrics = RunFolder(config.runs, config.name).metrics()
    return any(m["stage"] == "evaluate" and m["round"] == config.rounds for m in metrics)


def run_seconds(config: RunConfig) -> float:
    """Return what a run took in all its starts."""
    return costs(by_round(RunFolder(config.runs, config.name).metrics())).seconds


def _outcome(job: Job, played: list[dict[str, Any]]) -> Outcome:
    """Return what a run came to. played: the metrics of its last start, which met every stage.

    Results are those of that start. Costs are of all starts, but only for the stages of this run:
    a question to the teacher, or rounds beyond the last one, are no part of it.
    """
    results = by_round(played)
    run = RunFolder(job.config.runs, job.config.name)
    paid = [m for m in run.metrics() if _is_part(m, results)]
    spent = costs(by_round(paid))
    steps, curve = 0, []
    for of_round in results.values():
        if of_round.evaluate is not None:
            curve.append((steps, of_round.evaluate))
        steps += 0 if of_round.train is None else of_round.train.steps
    on_gpu = [m["peak_gpu_memory_mb"] for m in paid if "peak_gpu_memory_mb" in m]
    return Outcome(
        row=job.row,
        seed=job.seed,
        lr=job.config.train.lr,
        trained_tokens=spent.trained,
        teacher_scored=spent.scored,
        teacher_reused=spent.reused,
        seconds=spent.seconds,
        peak_memory_mb=max(m["peak_memory_mb"] for m in paid),
        peak_gpu_memory_mb=max(on_gpu, default=None),
        lost_ground=bool(rounds_that_lost_ground(results)),
        curve=tuple(curve),
    )


def _is_part(line: dict[str, Any], results: dict[int, Any]) -> bool:
    of_round = results.get(line["round"])
    return of_round is not None and line["stage"] in of_round.every()
