"""Rounds: what follows what. A round is rollout, score, select, train; then the next student.

Everything goes through the store, so a run that is started again finds what it has, continues
where it was, and another run with the same rollouts or the same teacher signals reuses them.
"""

import os
import re
import shutil
from typing import Any

from ..storage.errors import ConfigError
from ..storage.runs import RunFolder
from .config import RunConfig, make_config, same_run
from .progress import Reporter
from .scoring import ensure_scores
from .session import Session
from .steps import check_selection, ensure_evaluation, ensure_rollouts, ensure_selection
from .training import ensure_state, ensure_training


def play(session: Session) -> None:
    """Play all rounds of a run, with evaluations before, between and after them."""
    begin(session)
    try:
        _play(session)
    finally:
        session.engines.close()


def _play(session: Session) -> None:
    config = session.config
    first = first_round(session.run)
    if config.evaluate:
        ensure_evaluation(session, first, session.student(first))
    for number in range(first, config.rounds):
        play_round(session, number)
        if config.evaluate and _is_due(number + 1, config):
            ensure_evaluation(session, number + 1, session.student(number + 1))


def play_round(session: Session, number: int) -> None:
    """Play a round: the student answers, the teacher scores, a rule selects, the student learns."""
    student = session.student(number)
    rollouts = ensure_rollouts(session, number, student)
    scores = ensure_scores(session, number, student, rollouts)
    selection = ensure_selection(session, number, rollouts, scores.tokens)
    ensure_training(session, number, student, rollouts, scores.teacher, selection)


def begin(session: Session) -> None:
    """Write the resolved config into the run folder, or show that it is the one already there.

    Raises `ConfigError` when the run was started with other settings that change results.
    """
    check_selection(session.config.select)
    session.check_inputs()
    before = session.run.config()
    now = session.config.model_dump(mode="json")
    if before is None or not any(session.run.rounds()):
        session.run.save_config({"config": now, "horizon_rounds": session.config.rounds})
        return
    changed = same_run(before["config"], session.config)
    if changed:
        old = make_config(before["config"], str(session.run.config_path))
        first = changed[0]
        raise ConfigError(
            f"run {session.run.name} in {session.config.runs} was started with {first} = "
            f"{_value(old, first)!r}, now it is {_value(session.config, first)!r}"
            + (f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else "")
            + ": give this run another name (--name), its stored signals are shared"
        )
    session.run.save_config(before | {"config": now})


def branch(config: RunConfig, origin: str, reporter: Reporter) -> None:
    """Begin a run that shares another run's first rounds. origin: `RUN@N`, N rounds are shared.

    The shared rounds are pointers; the training state of the last of them is linked, or made again
    by training that round from stored signals.
    """
    match = re.fullmatch(r"([^@]+)@(\d+)", origin)
    if not match:
        raise ConfigError(f"--from {origin}: expected RUN@N, such as --from all@3")
    parent, shared = RunFolder(config.runs, match[1]), int(match[2])
    stored = parent.config()
    run = RunFolder(config.runs, config.name)
    if stored is None:
        raise ConfigError(f"--from {origin}: there is no run {match[1]} in {config.runs}")
    if run.config() is not None:
        return  # begun before: `begin` shows that the settings are the same
    trained = sum("checkpoint" in pointers for _, pointers in parent.rounds())
    if not 1 <= shared <= trained:
        raise ConfigError(
            f"--from {origin}: run {match[1]} has {trained} trained rounds; expected RUN@1 to "
            f"RUN@{trained}"
        )
    if shared >= config.rounds:
        raise ConfigError(
            f"--from {origin}: rounds = {config.rounds} leaves no round to play after {shared}"
        )
    parent_config = make_config(stored["config"], str(parent.config_path))
    state = ensure_state(Session(parent_config, reporter), shared - 1)
    for number in range(shared):
        run.update_round(number, **(parent.round(number) or {}))
    target = run.state_path(state.stem)
    target.parent.mkdir(parents=True, exist_ok=True)
    _link(state, target)
    run.save_config(
        {
            "config": config.model_dump(mode="json"),
            "horizon_rounds": config.rounds,
            "branch": {"run": match[1], "rounds": shared},
        }
    )


def first_round(run: RunFolder) -> int:
    """Return the first round that a run plays itself: after those it shares with its origin."""
    return int(((run.config() or {}).get("branch") or {}).get("rounds", 0))


def _is_due(trained: int, config: RunConfig) -> bool:
    every = config.evaluate.every if config.evaluate else 0
    return trained == config.rounds or bool(every and trained % every == 0)


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _link(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """Share a file that is only ever replaced, never changed; copy where there are no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(source, target)
