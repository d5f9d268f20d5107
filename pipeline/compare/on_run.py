"""`tip rules on RUN`: what rules would choose on the rounds of a run that is there, untrained."""

from collections.abc import Sequence

import polars as pl

from ...stages.select.rulebook import load_rule
from ...storage.errors import ConfigError
from ...storage.runs import RunFolder, record_of
from ..config.toml import make_config
from ..session import Session, look_at
from .choices import choices, scored_round
from .overlap import jaccard
from .page import console, show_plain
from .rows import RANDOM, budget, refuse_no_shares


def print_choices(
    name: str, runs: str, rules: Sequence[str], keep: float | None, numbers: Sequence[int] | None
) -> None:
    """Print what rules would choose of a run's rounds, and how much they have in common.

    Beside them stand the run's own rule and random tokens. keep: the run's where None. numbers: of
    rounds, all that are scored where None. Raises `ConfigError` where there is no such run, round
    or rule.
    """
    session = _session(name, runs)
    keep = session.config.select.keep if keep is None else keep
    names = list(dict.fromkeys([session.config.select.rule, RANDOM, *rules]))
    refuse_no_shares([keep])
    for rule in names:
        load_rule(rule)
    frames = []
    for number in _rounds(session, numbers):
        scored = scored_round(session, number)
        chosen = {rule: scored.chosen(rule, keep) for rule in names}
        numbered = pl.lit(number, pl.Int32).alias("round")
        frames.append(choices(scored, chosen).select(numbered, pl.all()))
    out = console()
    show_plain(f"chosen at {budget(keep)}, by round", pl.concat(frames), out)
    show_plain(f"common tokens at {budget(keep)}, round {number}", jaccard(chosen), out)


def _session(name: str, runs: str) -> Session:
    run = RunFolder(runs, name)
    config = record_of(run).config | {"runs": runs}
    return look_at(make_config(config, str(run.config_path)))


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
