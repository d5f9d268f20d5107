"""One stage of one round, for those who want to look between the stages.

Each needs what the stage before it made in this run, and says so where it is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ...storage.errors import ConfigError
from ...storage.store.store import Artifact
from ..checks import check_answering
from ..metrics import EvaluateMetrics
from ..session import Session
from .evaluation import ensure_evaluation
from .identity import begin
from .replay import stored
from .rollouts import ensure_rollouts
from .scores import ensure_scores
from .selection import ensure_selection
from .training import ensure_training, settle_state


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
        (selection,) = _made(session, number, "selection", "select")
        ensure_training(
            session,
            number,
            session.student(number),
            _made(session, number, "rollouts", "rollout"),
            _made(session, number, "teacher", "score"),
            selection,
        )
        settle_state(session, number)


def evaluate_round(session: Session, number: int) -> EvaluateMetrics:
    """Evaluate the student as it is after `number` rounds."""
    with _working(session):
        begin(session)
        return ensure_evaluation(session, number, session.student(number))


def evaluate_teacher(session: Session) -> EvaluateMetrics:
    """Evaluate the teacher on the same problems."""
    with _working(session):
        check_answering(session.inputs)
        engine = session.inputs.evaluation.engine
        return ensure_evaluation(session, 0, session.inputs.teacher(engine))


@contextmanager
def _own_round(session: Session, number: int) -> Iterator[None]:
    """Begin the run; refuse a round that it shares with its origin, for that one is not its own."""
    with _working(session):
        begin(session)
        began = session.run.branch()
        if began is not None and number < began[1]:
            raise ConfigError(
                f"round {number} of run {session.run.name} is shared with {began[0]}, where it "
                f"branched off: its own rounds begin at {began[1]}"
            )
        yield


@contextmanager
def _working(session: Session) -> Iterator[None]:
    with session.run.held():
        try:
            yield
        finally:
            session.executor.close()


def _made(session: Session, number: int, kind: str, stage: str) -> list[Artifact]:
    pointers = session.run.round(number)
    keys = None if pointers is None else pointers.of(kind)
    if not keys:
        raise ConfigError(
            f"round {number} of run {session.run.name} has no {kind} yet: run `tip {stage} CONFIG "
            f"--round {number}` first"
        )
    return stored(session, kind, keys)
