"""Rounds: what follows what. A round is rollout, score, select, train; then the next student.

Everything goes through the store, so a run that is started again finds what it has, continues
where it was, and another run with the same rollouts or the same teacher signals reuses them.
"""

from ..config.run import RunConfig
from ..session import Session
from ..tracking.follow import tracked
from .evaluation import ensure_evaluation
from .identity import begin
from .rollouts import ensure_rollouts
from .scores import ensure_scores
from .selection import ensure_selection
from .served import meet_server
from .teacher import meet_teacher
from .training import drop_old_states, ensure_training, settle_state


def play(session: Session) -> None:
    """Play all rounds of a run, with evaluations before, between and after them."""
    with session.run.held():
        begin(session)
        try:
            with tracked(session):
                meet_server(session)
                _play(session)
        finally:
            session.executor.close()


def _play(session: Session) -> None:
    config = session.config
    first = session.run.first_round
    if config.evaluate:
        if first < config.rounds:
            meet_teacher(session, first)
        ensure_evaluation(session, first, session.student(first))
    for number in range(first, config.rounds):
        play_round(session, number)
        if config.evaluate and _is_due(number + 1, config):
            ensure_evaluation(session, number + 1, session.student(number + 1))
    if first < config.rounds:
        settle_state(session, config.rounds - 1)
    beyond = session.run.round(config.rounds)
    if first < config.rounds and (beyond is None or beyond.checkpoint is None):
        drop_old_states(session, config.rounds - 1, ended=True)


def play_round(session: Session, number: int) -> None:
    """Play a round: the student answers, the teacher scores, a rule selects, the student learns."""
    student = session.student(number)
    meet_teacher(session, number)
    rollouts = ensure_rollouts(session, number, student)
    scores = ensure_scores(session, number, student, rollouts)
    selection = ensure_selection(session, number, rollouts, scores.tokens)
    ensure_training(session, number, student, rollouts, scores.teacher, selection)


def _is_due(trained: int, config: RunConfig) -> bool:
    every = config.evaluate.every if config.evaluate else 0
    return trained == config.rounds or bool(every and trained % every == 0)
