"""A run as the page reads it: what is small at once, its rollouts one by one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...stages.arrays.ragged import from_lists
from ...storage.errors import TipError
from ..compare.rows import budget_of, settings_of
from ..executors.here import Here
from ..show.texts import Texts
from .alarms import alarms_of
from .answers import answers_of
from .facts import about, artifacts, settings
from .picked import Picked, picked
from .plane import counted
from .sheets import Ends, Sheet, rules_chosen, sheets_of
from .source import Source
from .student import support_logprobs
from .tables import RoundTables, tables_of

RULES = ("soft_or", "q3", "divergence", "entropy_top")
"""Rules that are asked beside the run's own where nobody names any."""


@dataclass(frozen=True)
class Wanted:
    """What of a run is shown.

    rollouts, tokens: at most so many; tokens None: however many they have. rules: that say what
    they would choose. student: whether the students read the shown rollouts again.
    """

    rollouts: int
    tokens: int | None
    rules: Sequence[str] | None
    student: bool


@dataclass
class Gathered:
    """A run, and the sheets of its rollouts while they are read.

    facts: all that is small; complete when the last sheet was read.
    """

    source: Source
    wanted: Wanted
    picked: Picked
    facts: dict[str, Any] = field(default_factory=dict)

    def sheets(self) -> Iterator[Sheet]:
        """Yield the rollouts, round by round; what is read of one is forgotten with the next."""
        source, ends, index = self.source, Ends(), []
        texts = Texts(source.tokenizer)
        bar, title = source.session.reporter.bar, f"{source.config.name} rollouts"
        with (
            _students(source, self.wanted.student) as students,
            bar(title, self.picked.count, "rollouts") as tick,
        ):
            for number, rollouts in self.picked.rollouts.items():
                tables = tables_of(source, number, rollouts)
                choices = rules_chosen(_chosen(source, number, self.facts["rules"]), rollouts)
                student = _student_logprobs(source, students, number, tables)
                for sheet in sheets_of(
                    tables, number, texts, student, choices, ends, self.wanted.tokens
                ):
                    index.append(sheet.about)
                    tick(1)
                    yield sheet
        self.facts |= {"rollouts": index, "caps": ends.caps(), "rollouts_of": self.picked.of}


def gathered(source: Source, wanted: Wanted) -> Gathered:
    """Return a run's facts; its rollouts are read when they are asked for."""
    result = Gathered(source, wanted, picked(source, wanted.rollouts, wanted.tokens))
    asked = RULES if wanted.rules is None else wanted.rules
    own = source.config.select.rule  # what it chose is known, and need not be asked
    rules = [rule for rule in asked if rule != own]
    made = artifacts(source)
    result.facts |= {
        "about": about(source) | {"over_support": any(a["mode"] == "support" for a in made)},
        "alarms": [asdict(alarm) for alarm in alarms_of(source)],
        "metrics": {
            number: {stage: line.model_dump(mode="json") for stage, line in of.every().items()}
            for number, of in source.metrics.items()
        },
        "plane": counted(source),
        "answers": answers_of(source),
        "artifacts": made,
        "settings": settings(source),
        "content": source.record.content or {},
        "rules": rules if source.tokenizer is not None else [],
        "student_read": wanted.student and source.tokenizer is not None,
    }
    return result


def _chosen(source: Source, number: int, rules: Sequence[str]) -> dict[str, pa.Table | None]:
    """Return by rule what it would choose of a whole round, at the run's own budget.

    None for one that cannot be asked.
    """
    if not rules:
        return {}
    scored = source.scored_round(number)
    chosen: dict[str, pa.Table | None] = dict.fromkeys(rules)
    for rule in rules:
        try:
            select = settings_of(scored.settings, rule, budget_of(scored.settings))
            chosen[rule] = scored.selection(select)
        except TipError as error:
            source.session.reporter.say(f"note: rule {rule} cannot be asked: {error}")
    return chosen


@contextmanager
def _students(source: Source, wanted: bool) -> Iterator[Here | None]:
    """Give what loads students, None where they are not to be asked."""
    if not wanted or source.tokenizer is None:
        yield None
        return
    here = Here(source.config, source.session.store, source.session.reporter)
    try:
        yield here
    finally:
        here.close()


def _student_logprobs(
    source: Source, students: Here | None, number: int, tables: RoundTables
) -> np.ndarray | None:
    """Return the log-probs of the student that the round began with, None where it is gone."""
    if students is None:
        return None
    try:
        student = students.holder.model(source.session.student(number))
    except TipError as error:
        source.session.reporter.say(f"note: the student of round {number} is not here: {error}")
        return None
    support = from_lists(tables.teacher["ids"])
    return support_logprobs(student, tables.rollouts, support, lambda _: None)
