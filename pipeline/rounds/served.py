"""The teacher's server, met before the first rollouts: what is wrong with it shows before hours."""

from ...stages.engines.server.client import AbsentError
from ...stages.engines.server.scorer import ServerScorer, probe_inputs
from ...stages.holder import Served
from ...storage.store.artifacts import artifact_key
from ..session import Session
from ..works.scores import refuse_other_model
from .generators import reader_of

_LONGEST_WAIT = 30.0  # seconds for a server that answers at all


def meet_server(session: Session) -> None:
    """Refuse a server that will not do, before anything is generated; one that is away may come.

    Asks nothing where the teacher is no server's, or all rounds are trained.
    """
    last = session.run.round(session.config.rounds - 1)
    if session.config.score.engine != "server" or (last is not None and last.checkpoint):
        return
    try:
        ask_once(session)
    except AbsentError as error:
        session.reporter.say(f"note: {error}; it is needed when the first rollouts are there")


def ask_once(session: Session) -> str:
    """Return in words what the teacher's server serves.

    Raises a `TipError` as scoring does: for a server that is not there, or has another model, one
    that is not that of the stored scores, another vocabulary or limits that are too low.
    """
    wanted = reader_of(session)
    assert isinstance(wanted, Served)  # the config says so
    seconds = min(wanted.server.timeout_seconds, _LONGEST_WAIT)
    once = {"patience_seconds": 0.0, "timeout_seconds": seconds}
    scorer = ServerScorer(
        wanted.server.model_copy(update=once),
        wanted.card,
        needed=wanted.needed,
        top=wanted.top,
        tolerance=wanted.tolerance,
        say=lambda _: None,
    )
    teacher = session.inputs.teacher("server")
    inputs = probe_inputs(teacher.fingerprint, teacher.dtype, len(scorer.probe))
    known = session.store.find("probe", artifact_key("probe", inputs))
    if known is not None:
        refuse_other_model(scorer, teacher, known)
    before = ", which are those of the stored scores" if known else ""
    return f"{wanted.server.url} serves {scorer.name!r}, with log-probs of known tokens{before}"
