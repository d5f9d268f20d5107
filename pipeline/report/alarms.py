"""What a reader must see first: that a run lost ground, and what of it is not as it should be.

An alarm says that something grew worse; a note, that something must be known to read the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..compare.measures import MEASURES
from ..metrics import ByRound, EvaluateMetrics
from ..stability import rounds_that_lost_ground, warning
from .source import Source

_CUT_OFF = 0.5  # share of rollouts at the length limit from which the limit decides what is learnt
_LITTLE_MASS = 0.9  # of the student's probability: below it, the support says little of the loss
_OTHER_STUDENT = 0.05  # nats: from there another student made the rollouts


@dataclass(frozen=True)
class Alarm:
    """One line for people. at: name of the part of the page that shows it."""

    level: Literal["alarm", "note"]
    text: str
    at: str


def alarms_of(source: Source) -> list[Alarm]:
    """Return what must be said of a run, alarms first."""
    found = [
        *_lost_ground(source),
        *_held_out(source.metrics),
        *_skipped(source.metrics),
        *_notes(source),
    ]
    return sorted(found, key=lambda alarm: alarm.level != "alarm")


def _lost_ground(source: Source) -> Iterator[Alarm]:
    lost = rounds_that_lost_ground(source.metrics)
    if not lost:
        return
    text = warning(source.metrics, lost[-1], source.config)
    rounds = f"round {lost[0]}" if len(lost) == 1 else f"{len(lost)} rounds, first in {lost[0]}"
    yield Alarm("alarm", f"Lost ground in {rounds}: {text}.", "stability")


def _held_out(metrics: ByRound) -> Iterator[Alarm]:
    """Compare the last evaluation with the best one before it."""
    asked = {n: of.evaluate for n, of in metrics.items() if of.evaluate is not None}
    if len(asked) < 2:
        return
    last = max(asked)
    yield from _accuracy({n: e for n, e in asked.items() if n != last}, last, asked[last])
    for name in ("reverse_kl", "forward_kl", "jsd"):
        before = {n: v for n, e in asked.items() if (v := getattr(e, name)) is not None}
        now = before.pop(last, None)
        if now is None or not before:
            continue
        best = min(before, key=lambda n: before[n])
        if now > before[best] * (1 + MEASURES[name].margin):
            yield Alarm(
                "alarm",
                f"Held-out {name.replace('_', ' ')} grew worse: {before[best]:.4f} nats after "
                f"{best} rounds, {now:.4f} after {last}.",
                "accuracy",
            )


def _accuracy(
    before: dict[int, EvaluateMetrics], number: int, last: EvaluateMetrics
) -> Iterator[Alarm]:
    best = max(before, key=lambda n: before[n].accuracy)
    then = before[best]
    if last.accuracy >= then.accuracy:
        return
    apart = last.high < then.low
    settled = "the intervals do not meet" if apart else "the intervals overlap, it may be chance"
    yield Alarm(
        "alarm" if apart else "note",
        f"Held-out accuracy fell from {then.accuracy:.1%} after {best} rounds to "
        f"{last.accuracy:.1%} after {number}: {settled}.",
        "accuracy",
    )


def _skipped(metrics: ByRound) -> Iterator[Alarm]:
    rounds = [n for n, of in metrics.items() if of.train is not None and of.train.skipped]
    if rounds:
        yield Alarm(
            "alarm",
            f"Training steps were skipped in {len(rounds)} rounds, first in {rounds[0]}: loss or "
            "gradient were not finite.",
            "losses",
        )


def _notes(source: Source) -> Iterator[Alarm]:
    planned, trained = source.config.rounds, source.trained
    if trained < planned:
        yield Alarm("note", f"{trained} of {planned} rounds are trained so far.", "rounds")
    cut = {n: of.rollout.truncated for n, of in source.metrics.items() if of.rollout is not None}
    worst = max(cut, key=lambda n: cut[n] or 0, default=None)
    if worst is not None and (cut[worst] or 0) > _CUT_OFF:
        yield Alarm(
            "note",
            f"The length limit ended {cut[worst]:.0%} of the rollouts of round {worst}: what comes "
            "behind rollout.max_tokens is never learnt.",
            "lengths",
        )
    scores = {n: of.score for n, of in source.metrics.items() if of.score is not None}
    masses = {n: s.student_mass for n, s in scores.items() if s.student_mass is not None}
    thin = [n for n, mass in masses.items() if mass < _LITTLE_MASS]
    if thin:
        least = min(masses[n] for n in thin)
        yield Alarm(
            "note",
            f"The support holds only {least:.0%} of the student's probability in round {thin[0]}: "
            "raise rollout.student_top_max, or set train.tail = 'residual'.",
            "losses",
        )
    stale = [n for n, s in scores.items() if (s.off_policy_kl or 0) > _OTHER_STUDENT]
    if stale:
        yield Alarm(
            "note",
            f"In {len(stale)} rounds another student made the rollouts than the one that is "
            f"trained (KL {scores[stale[-1]].off_policy_kl:.3f} nats in round {stale[-1]}).",
            "losses",
        )
