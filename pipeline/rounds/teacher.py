"""The teacher, met before the first rollouts: what is wrong with it shows before hours."""

from ..session import Session
from ..works.loaded import LoadedWork
from .served import meet_server


def meet_teacher(session: Session) -> None:
    """Refuse a teacher that will not do, before anything is generated.

    A server is asked; what transformers computes is loaded, once in a store. vLLM's process takes
    minutes to start, and starts where it is needed. Nothing is done where all rounds are trained.
    """
    last = session.run.round(session.config.rounds - 1)
    if last is not None and last.checkpoint:
        return
    engine = session.config.score.engine
    if engine == "server":
        meet_server(session)
    elif engine == "transformers":
        session.executor.map([LoadedWork(session.inputs.teacher_alone(engine))], "teacher")
