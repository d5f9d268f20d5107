"""Artifacts that pointers name: this run's own, or those of the run that it replays."""

from ...storage.errors import ConfigError, StoreError
from ...storage.runs import RunFolder
from ...storage.store.store import Artifact
from ..session import Session


def replayed(session: Session, name: str, number: int) -> list[Artifact]:
    """Return the rollouts that another run used in the same round."""
    pointers = RunFolder(session.config.runs, name).round(number)
    if pointers is None or not pointers.rollouts:
        raise ConfigError(
            f"rollout.replay = {name!r}: that run has no round {number} under "
            f"{session.config.runs}; play it first, or lower `rounds`"
        )
    return stored(session, "rollouts", pointers.rollouts)


def stored(session: Session, kind: str, keys: list[str] | tuple[str, ...]) -> list[Artifact]:
    """Return artifacts that pointers of a run name, or say which is gone."""
    found = []
    for key in keys:
        artifact = session.store.find(kind, key)
        if artifact is None:
            raise StoreError(
                f"{session.config.store}: {kind} {key} is not there any more; `tip run` with the "
                "config of the run that made it makes it again"
            )
        found.append(artifact)
    return found
