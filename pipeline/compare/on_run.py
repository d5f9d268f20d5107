"""`tip rules on RUN`: what rules would choose on the rounds of a run that is there, untrained."""

from collections.abc import Sequence

import polars as pl

from ...stages.select.rulebook import load_rule
from ...storage.errors import ConfigError
from ...storage.runs import RunFolder, record_of
from ..config.toml import make_config
from ..progress import Reporter
from ..session import Session, look_at
from .choices import choices, scored_round
from .overlap import jaccard
from .page import console, show_plain
from .rows import RANDOM, Budget, budget_of, shown


def print_choices(
    name: str,
    runs: str,
    rules: Sequence[str],
    budgets: Sequence[Budget],
    numbers: Sequence[int] | None,
) -> None:
    """Print what rules would choose of a run's rounds, and how much they have in common.

    Beside them stand the run's own rule and random tokens. budgets: the run's where there is none.
    numbers: of rounds, all that are scored where None. Raises `ConfigError` where there is no such
    run, round or rule.
    """
    session = looked_at(name, runs)
    names = list(dict.fromkeys([session.config.select.rule, RANDOM, *rules]))
    for rule in names:
        load_rule(rule)
    for budget in budgets or [budget_of(session.config.select)]:
        _print_at(budget, session, names, _rounds(session, numbers))


def _print_at(
    budget: Budget, session: Session, names: Sequence[str], rounds: Sequence[int]
) -> None:
    frames = []
    for number in rounds:
        scored = scored_round(session, number)
        chosen = {rule: scored.chosen(rule, budget) for rule in names}
        numbered = pl.lit(number, pl.Int32).alias("round")
        frames.append(choices(scored, chosen).select(numbered, pl.all()))
    out = console()
    show_plain(f"chosen at {shown(budget)}, by round", pl.concat(frames), out)
    show_plain(f"common tokens at {shown(budget)}, round {rounds[-1]}", jaccard(chosen), out)


def looked_at(name: str, runs: str, reporter: Reporter | None = None) -> Session:
    """Return a session that looks at a run. Raises `ConfigError` where there is none.

    What it was made with may be another machine's: a device that is not here does not matter.
    """
    run = RunFolder(runs, name)
    config = record_of(run).config | {"runs": runs, "device": "auto"}
    return look_at(make_config(config, str(run.config_path)), reporter)


def _rounds(session: Session, numbers: Sequence[int] | None) -> list[int]:
    known = [number for number, pointers in session.run.rounds() if pointers.tokens]
    asked = known if numbers is None else list(dict.fromkeys(numbers))
    lacking = [number for number in asked if number not in known]
    if lacking or not asked:
        raise ConfigError(
            f"run {session.config.name} has no scored round {', '.join(map(str, lacking))}".rstrip()
            + f"; it has {', '.join(map(str, known)) or 'none: play it first'}"
        )
    return asked
