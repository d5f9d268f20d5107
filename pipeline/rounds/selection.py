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
_FEW = 0.01


def ensure_selection(
    session: Session, number: int, rollouts: list[Artifact], tokens: list[Artifact]
) -> Artifact:
    """Return the selected tokens of a round."""
    config, watch = session.config, Stopwatch(session.store.ledger)
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
    numbers = facts.dump() | {"round": number, "stage": "select"}
    share = _share(facts, config.select.scope)
    report(
        session,
        watch,
        f"{config.select.rule}: {facts.kept:,} of {facts.trainable:,} tokens ({share})"
        + ("" if made.fresh else ", found"),
        SelectMetrics.model_validate(numbers),
    )
    session.run.point(number, selection=made.artifact.key)
    if config.select.rule.endswith(".sql") and (zeros := facts.zeros or 0) > _FEW * facts.kept:
        session.reporter.say(
            f"note: {config.select.rule}: {zeros:,} of the {facts.kept:,} kept tokens have the "
            "importance 0 and fill the budget up: to leave such tokens out, give them null or say "
            "it with WHERE"
        )
    if told := warning(_of_warning(session, number), number, config):
        session.reporter.say(f"round {number:<3} warning   {told}")
    return made.artifact


def _share(facts: SelectionFacts, scope: str) -> str:
    """Return the share that is kept, and where it is less, what was asked for."""
    share = facts.kept / max(1, facts.trainable)
    if facts.keep is None or share > facts.keep - _FEW:
        return f"{share:.1%}"
    return f"{share:.1%}; at most {facts.keep:.0%} of each {scope}, rounded down"


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
