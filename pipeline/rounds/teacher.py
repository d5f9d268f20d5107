"""The teacher, met before rollouts are made: what is wrong with it shows before hours."""

from ..session import Session
from ..works.loaded import LoadedWork
from .rollouts import rollout_works


def meet_teacher(session: Session, number: int) -> None:
    """Refuse a teacher that will not do, before anything is generated for a round.

    What transformers computes is loaded, once in a store, and only where the round's rollouts are
    to be made: who trains on what is stored need not be able to hold the teacher. vLLM's process
    takes minutes to start, and starts where it is needed; for a server see `meet_server`.
    """
    config, store = session.config, session.store
    if config.score.engine != "transformers" or config.rollout.replay:
        return
    teacher = LoadedWork(session.inputs.teacher_alone(config.score.engine))
    if teacher.found(store) is not None:
        return
    student, shards = session.student(number), session.inputs.round_shards(number)
    if any(work.found(store) is None for work in rollout_works(session, student, shards)):
        session.executor.map([teacher], "teacher")
