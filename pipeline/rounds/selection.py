"""The select stage of a round."""

from ...storage.facts import SelectionFacts
from ...storage.store.store import Artifact
from ..metrics import ByRound, SelectMetrics, by_round
from ..progress import Stopwatch
from ..session import Session
from ..stability import warning
from ..works.selection import SelectWork
from .report import report

_LOST = "unselected_reverse_kl"


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
    """Return what a warning of this round rests on: the first, the best and the last rounds.

    To read what all rounds said would take each round a bit longer than the one before.
    """
    lines = [m for m in session.run.metrics() if m.get("round", number) <= number]
    said = {m["round"]: m.get(_LOST) for m in lines if m.get("stage") == "select"}
    known = {n: value for n, value in sorted(said.items()) if isinstance(value, float)}
    best = min(known, key=lambda n: known[n], default=number)
    near = {*list(known)[:1], best, number - 1, number}
    return by_round(m for m in lines if m.get("round") in near)
