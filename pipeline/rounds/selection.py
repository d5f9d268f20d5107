"""The select stage of a round."""

from ...storage.facts import SelectionFacts
from ...storage.store.store import Artifact
from ..metrics import ByRound, SelectMetrics, by_round
from ..progress import Stopwatch
from ..session import Session
from ..stability import warning
from ..works.selection import SelectWork
from .report import report


def ensure_selection(
    session: Session, number: int, rollouts: list[Artifact], tokens: list[Artifact]
) -> Artifact:
    """Return the selected tokens of a round."""
    config, watch = session.config, Stopwatch()
    work = SelectWork(
        tuple(rollouts),
        tuple(tokens),
        config.select,
        config.seed,
        session.inputs.student_card.head_rows,
        config.threads,
    )
    ((made,),) = session.executor.map([work], f"round {number} select")
    facts = SelectionFacts.of(made.artifact)
    share = facts.kept / max(1, facts.trainable)
    numbers = facts.dump() | {"round": number, "stage": "select"}
    report(
        session,
        watch,
        f"{config.select.rule}: {facts.kept:,} of {facts.trainable:,} tokens ({share:.1%})"
        + ("" if made.fresh else ", found"),
        SelectMetrics.model_validate(numbers),
    )
    session.run.point(number, selection=made.artifact.key)
    if told := warning(_of_warning(session, number), number, config):
        session.reporter.say(f"round {number:<3} warning   {told}")
    return made.artifact


def _of_warning(session: Session, number: int) -> ByRound:
    """Return the metrics that a warning rests on: all of them grow round by round."""
    lines = session.run.metrics()
    selected = [m for m in lines if m.get("stage") == "select"]
    near = (selected[0]["round"], number - 1)
    return by_round(m for m in lines if m.get("stage") == "select" or m.get("round") in near)
