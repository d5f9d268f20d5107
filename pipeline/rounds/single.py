"""One stage of one round, for those who want to look between the stages.

Each needs what the stage before it made in this run, and says so where it is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...storage.errors import ConfigError
from ...storage.store.store import Artifact
from ..session import Session, Student
from .identity import begin
from .scores import ensure_scores
from .steps import ensure_evaluation, ensure_rollouts, ensure_selection, stored
from .training import ensure_training


def rollout_round(session: Session, number: int) -> None:
    """Make the rollouts of a round."""
    with _own_round(session, number):
        ensure_rollouts(session, number, session.student(number))


def score_round(session: Session, number: int) -> None:
    """Score a round's rollouts."""
    with _own_round(session, number):
        rollouts = _made(session, number, "rollouts", "rollout")
        ensure_scores(session, number, session.student(number), rollouts)


def select_round(session: Session, number: int) -> None:
    """Select a round's tokens."""
    with _own_round(session, number):
        tokens = _made(session, number, "tokens", "score")
        ensure_selection(session, number, _made(session, number, "rollouts", "rollout"), tokens)


def train_round(session: Session, number: int) -> None:
    """Train on a round's selection."""
    with _own_round(session, number):
        selection = _made(session, number, "selection", "select")[0]
        ensure_training(
            session,
            number,
            session.student(number),
            _made(session, number, "rollouts", "rollout"),
            _made(session, number, "teacher", "score"),
            selection,
        )


def evaluate_round(session: Session, number: int) -> dict[str, Any]:
    """Evaluate the student as it is after `number` rounds."""
    begin(session)
    with _engines(session):
        return ensure_evaluation(session, number, session.student(number))


def evaluate_teacher(session: Session) -> dict[str, Any]:
    """Evaluate the teacher on the same problems."""
    teacher = session.config.teacher
    card = session.teacher_card
    model = Student(teacher, card.fingerprint, card.fingerprint)
    with _engines(session):
        return ensure_evaluation(session, 0, model, "teacher")


@contextmanager
def _own_round(session: Session, number: int) -> Iterator[None]:
    """Begin the run; refuse a round that it shares with its origin, for that one is not its own."""
    begin(session)
    began = session.run.branch()
    if began is not None and number < began[1]:
        raise ConfigError(
            f"round {number} of run {session.run.name} is shared with {began[0]}, where it "
            f"branched off: its own rounds begin at {began[1]}"
        )
    with _engines(session):
        yield


@contextmanager
def _engines(session: Session) -> Iterator[None]:
    try:
        yield
    finally:
        session.engines.close()


def _made(session: Session, number: int, kind: str, stage: str) -> list[Artifact]:
    keys = (session.run.round(number) or {}).get(kind)
    if keys is None:
        raise ConfigError(
            f"round {number} of run {session.run.name} has no {kind} yet: run `tip {stage} CONFIG "
            f"--round {number}` first"
        )
    return stored(session, kind, keys if isinstance(keys, list) else [keys])
