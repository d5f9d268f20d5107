"""Branches: a run that shares another run's first rounds and goes its own way from there.

The shared rounds are pointers into the store; the training state of the last of them is linked, or
made again by the run that it belongs to.
"""

import os
import re
import secrets
import shutil
from typing import Any

from ...storage.errors import ConfigError
from ...storage.runs import RunFolder
from ..config.run import RunConfig
from ..config.toml import make_config
from ..progress import Reporter
from ..session import Session
from .training import ensure_state


def branch(config: RunConfig, origin: str, reporter: Reporter) -> None:
    """Begin a run that shares another run's first rounds. origin: `RUN@N`, N rounds are shared.

    Started again, it shows that the run is this very branch. Raises `ConfigError` where there is
    nothing to share, or the run began otherwise.
    """
    parent, shared = _origin(config, origin)
    run = RunFolder(config.runs, config.name)
    if any(run.rounds()) and run.branch() != (parent.name, shared):
        began = run.branch()
        how = "at its own round 0" if began is None else f"from {began[0]}@{began[1]}"
        raise ConfigError(
            f"--from {origin}: run {config.name} began {how}: leave --from out to go on with it, "
            "or give the branch another name (--name)"
        )
    if run.round(shared - 1) is not None:
        return  # written last, so the branch is whole
    stored = parent.config() or {}
    parent_config = make_config(stored["config"], str(parent.config_path))
    state = ensure_state(Session(parent_config, reporter), shared - 1)
    run.save_config(
        {
            "id": secrets.token_hex(8),
            "config": config.model_dump(mode="json"),
            "horizon_rounds": config.rounds,
            "branch": {"run": parent.name, "rounds": shared},
        }
    )
    target = run.state_path(state.stem)
    target.parent.mkdir(parents=True, exist_ok=True)
    _link(state, target)
    for number in range(shared):
        run.update_round(number, **(parent.round(number) or {}))


class BranchView(RunFolder):
    """A branch that has not begun, as it would look: for plans, which write nothing."""

    def __init__(self, config: RunConfig, origin: str) -> None:
        super().__init__(config.runs, config.name)
        self._parent, self._shared = _origin(config, origin)

    def branch(self) -> tuple[str, int]:
        """Return the origin."""
        return self._parent.name, self._shared

    def round(self, number: int) -> dict[str, Any] | None:
        """Return the pointers of a round, the origin's where they are shared."""
        own = super().round(number)
        return self._parent.round(number) if own is None and number < self._shared else own


def _origin(config: RunConfig, origin: str) -> tuple[RunFolder, int]:
    """Return the run and the number of its rounds that `RUN@N` names."""
    match = re.fullmatch(r"([^@]+)@(\d+)", origin)
    if not match:
        raise ConfigError(f"--from {origin}: expected RUN@N, such as --from all@3")
    parent, shared = RunFolder(config.runs, match[1]), int(match[2])
    stored = parent.config()
    if stored is None:
        raise ConfigError(f"--from {origin}: there is no run {match[1]} in {config.runs}")
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
    store = stored["config"]["store"]
    if store != config.store:
        raise ConfigError(
            f"--from {origin}: the rounds of {match[1]} lie in store = {store!r}, but this config "
            f"has store = {config.store!r}: set store = {store!r}"
        )
    return parent, shared


def _link(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """Share a file that is only ever replaced, never changed; copy where there are no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(source, target)
