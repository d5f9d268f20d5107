"""Whether training ruins the student: on tokens that no selection holds in place, or held out.

A small budget leaves most tokens without a loss. At a high learning rate the student forgets there
what it could do, and rollouts, signals and answers follow. Two numbers tell: the reverse KL to the
teacher on the unselected tokens (of the `select` stage), and the student's drift on them (of the
`train` stage). The drift alone raises no alarm, since a student that learns fast moves as much.
What problems are answered with is watched as well, where a config has them.
"""

from math import inf

from ..stages.select.rulebook import taken
from .config.run import RunConfig
from .metrics import ByRound, EvaluateMetrics

# Of the mean over all tokens in the run's first round, and of the best round so far. On the
# built-in pair every run that collapsed went beyond it, and none that ended as well as all tokens
# (docs/RESULTS.md): one round's mean fluctuates by up to a half of the first.
GROWTH = 1.5
FLOOR = 0.01  # nats a token: models that near to each other have nothing worth an alarm to lose

# Of the least held-out reverse KL so far: answers to a few dozen problems fluctuate by less.
WORSE = 1.1


def lost_ground(rounds: ByRound, number: int) -> tuple[int, float, float] | None:
    """Return (best round, its reverse KL, that of round `number`) on unselected tokens, or None.

    None unless it has grown beyond `FLOOR`, and to more than `GROWTH` times that of the best round
    before and of all tokens in the first round. rounds: as `metrics.by_round` gives them; KL in
    nats a token.
    """
    return _all_lost(rounds).get(number)


def _all_lost(rounds: ByRound) -> dict[int, tuple[int, float, float]]:
    """Return what `lost_ground` says of each round that lost any, in order."""
    lost: dict[int, tuple[int, float, float]] = {}
    best, low, started = 0, inf, -inf
    for number, of_round in sorted(rounds.items()):
        now = None if of_round.select is None else of_round.select.unselected_reverse_kl
        if now is None:
            continue
        if low == inf:
            first = None if of_round.score is None else of_round.score.reverse_kl
            started = now if first is None else first
        elif now > max(FLOOR, GROWTH * max(low, started)):
            lost[number] = best, low, now
        if now < low:
            best, low = number, now
    return lost


def warning(rounds: ByRound, number: int, config: RunConfig) -> str | None:
    """Return what to tell a person whose round `number` lost ground, None where it did not."""
    lost = lost_ground(rounds, number)
    if lost is None:
        return None
    best, low, now = lost
    trained = rounds[number - 1].train if number - 1 in rounds else None
    drift = None if trained is None else trained.drift_unselected
    moved = f", and the last training moved it there by {drift:.4f} nats" if drift else ""
    again = f"; `--from {config.name}@{best}` goes on from where it was best" if best else ""
    select = config.select
    more = f"count = {select.count}" if select.keep is None else f"keep = {select.keep:g}"
    own, _ = taken(select.rule, None, None)
    more = f"select.{more}" if own is None else "the share of the tokens, by another rule"
    return (
        "the student loses what it is not trained on: reverse KL on the unselected tokens grew "
        f"from {low:.4f} (round {best}) to {now:.4f} nats{moved}. If it goes on, lower train.lr = "
        f"{config.train.lr:g} or raise {more}{again}"
    )


def rounds_that_lost_ground(rounds: ByRound) -> list[int]:
    """Return the rounds for which a warning is due."""
    return list(_all_lost(rounds))


def held_out_warning(rounds: ByRound, number: int, config: RunConfig) -> str | None:
    """Return what to tell a person whose student after `number` rounds answers worse than before.

    Worse: a held-out reverse KL of more than `WORSE` times the least so far and `FLOOR` nats above
    it, or an accuracy whose 95 % interval lies below that of the best so far. None where neither
    is, or nothing was asked before. rounds: as `metrics.by_round` gives them.
    """
    asked = {n: of.evaluate for n, of in rounds.items() if of.evaluate is not None}
    now = asked.get(number)
    before = {n: e for n, e in asked.items() if n < number and now and e.asked == now.asked}
    if now is None or not before:
        return None
    found = _further(before, now) or _less_right(before, now)
    if found is None:
        return None
    best, told = found
    worse = f"the student of round {number} is worse on held-out problems than "
    if not best:
        return (
            f"{worse}the one before any training: {told}. Begin again under another name, with a "
            f"lower train.lr than {config.train.lr:g}"
        )
    return (
        f"{worse}that of round {best}: {told}. `tip export {config.name}@{best} FOLDER` is the "
        f"better one; to go on from it, `--name NEW --from {config.name}@{best}` with a lower "
        f"train.lr than {config.train.lr:g}"
    )


def _further(before: dict[int, EvaluateMetrics], now: EvaluateMetrics) -> tuple[int, str] | None:
    known = {n: e.reverse_kl for n, e in before.items() if e.reverse_kl is not None}
    if now.reverse_kl is None or not known:
        return None
    best = min(known, key=lambda n: known[n])
    if now.reverse_kl <= max(WORSE * known[best], known[best] + FLOOR):
        return None
    return best, f"reverse KL {now.reverse_kl:.4f} against {known[best]:.4f} nats"


def _less_right(before: dict[int, EvaluateMetrics], now: EvaluateMetrics) -> tuple[int, str] | None:
    best = max(before, key=lambda n: before[n].accuracy)
    if now.high >= before[best].low:
        return None
    return best, f"accuracy {now.accuracy:.1%} against {before[best].accuracy:.1%}"
