"""Branches: a run that shares another run's first rounds and goes its own way from there.

The shared rounds are pointers into the store; the training state of the last of them is linked, or
made again by the run that it belongs to.
"""

import re
import secrets
from dataclasses import replace
from pathlib import Path

from ...stages.train.state import check_state
from ...storage.errors import ConfigError
from ...storage.runs import Branch, RoundPointers, RunFolder, RunRecord, RunView
from ..config.run import RunConfig
from ..config.toml import make_config
from ..session import Session
from .training import ensure_state


def branch(session: Session, origin: str) -> None:
    """Begin a run that shares another run's first rounds. origin: `RUN@N`, N rounds are shared.

    Started again, it shows that the run is this very branch. Raises `ConfigError` where there is
    nothing to share, or the run began otherwise.
    """
    with session.run.held():
        _branch(session, origin)


def _branch(session: Session, origin: str) -> None:
    config, run = session.config, session.run
    parent, shared = _origin(config, origin)
    if any(run.rounds()) and run.branch() != (parent.name, shared):
        began = run.branch()
        how = "at its own round 0" if began is None else f"from {began[0]}@{began[1]}"
        raise ConfigError(
            f"--from {origin}: run {config.name} began {how}: leave --from out to go on with it, "
            "or give the branch another name (--name)"
        )
    if run.round(shared - 1) is not None:
        return  # written last, so the branch is whole
    try:
        pointers = parent.round(shared - 1) or RoundPointers()
        state = ensure_state(session.of(parent), shared - 1, str(pointers.checkpoint))
        check_state(state)  # a damaged one would be met when half of a round has been paid for
    finally:
        session.executor.close()
    run.save(
        RunRecord(
            id=secrets.token_hex(8),
            config=config.model_dump(mode="json"),
            horizon_rounds=config.rounds,
            branch=Branch(run=parent.name, rounds=shared),
        )
    )
    run.share_state(state)
    _point(run, parent, shared)


def view_of_branch(session: Session, origin: str) -> Session:
    """Return a session that looks at a branch which has not begun, as it would be."""
    config = session.config
    parent, shared = _origin(config, origin)
    run = RunView(config.runs, config.name)
    run.save(
        RunRecord(
            id="",
            config=config.model_dump(mode="json"),
            horizon_rounds=config.rounds,
            branch=Branch(run=parent.name, rounds=shared),
        )
    )
    _point(run, parent, shared)
    return replace(session, run=run)


def _point(run: RunFolder, parent: RunFolder, shared: int) -> None:
    for number in range(shared):
        pointers = parent.round(number) or RoundPointers()
        run.point(number, **pointers.model_dump(exclude_none=True, exclude={"owes"}))


def _origin(config: RunConfig, origin: str) -> tuple[RunFolder, int]:
    """Return the run and the number of its rounds that `RUN@N` names."""
    if "@" not in origin:
        raise ConfigError(f"--from {origin}: expected RUN@N, such as --from all@3")
    parent, about, shared = trained_run(config.runs, origin, "--from")
    if shared >= config.rounds:
        raise ConfigError(
            f"--from {origin}: rounds = {config.rounds} leaves no round to play after {shared}"
        )
    store = about.config["store"]
    if store != config.store:
        raise ConfigError(
            f"--from {origin}: the rounds of {parent.name} lie in store = {store!r}, but this "
            f"config has store = {config.store!r}: set store = {store!r}"
        )
    _refuse_other_weights(config, origin, make_config(about.config, str(parent.config_path)))
    return parent, shared


def trained_run(runs: str | Path, text: str, option: str) -> tuple[RunFolder, RunRecord, int]:
    """Return a run, its record and the number of its trained rounds that `RUN@N` names.

    Without `@N` all of them. option: what the text was given to. Raises `ConfigError` where there
    is no such run, or none so far.
    """
    match = re.fullmatch(r"([^@]+)(?:@(\d+))?", text)
    if not match:
        raise ConfigError(f"{option} {text}: expected RUN@N, such as {option} all@3")
    run = RunFolder(runs, match[1])
    about = run.about()
    if about is None:
        raise ConfigError(
            f"{option} {text}: there is no run {match[1]} in {runs}; `tip status --runs FOLDER` "
            "lists those of a folder"
        )
    trained = sum(pointers.checkpoint is not None for _, pointers in run.rounds())
    if not trained:
        raise ConfigError(
            f"{option} {text}: run {match[1]} has no trained round yet; `tip run` plays them"
        )
    number = trained if match[2] is None else int(match[2])
    if not 1 <= number <= trained:
        raise ConfigError(
            f"{option} {text}: run {match[1]} has {trained} trained rounds; expected {match[1]}@1 "
            f"to {match[1]}@{trained}"
        )
    return run, about, number


def _refuse_other_weights(config: RunConfig, origin: str, parent: RunConfig) -> None:
    """Raise `ConfigError` where the parent's training state holds other weights or moments."""
    for name in ("lora", "optimizer"):
        theirs, ours = (each.train.model_dump(mode="json")[name] for each in (parent, config))
        if theirs != ours:
            raise ConfigError(
                f"--from {origin}: a branch goes on from a training state that was left with "
                f"train.{name} = {theirs!r}, but this config has {ours!r}: set the same, or start "
                "the run at round 0, where its rollouts and scores are found"
            )
