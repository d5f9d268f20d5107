"""Whether training ruins what it does not look at: the tokens that no selection holds in place.

A small budget leaves most tokens without a loss. At a high learning rate the student forgets there
what it could do, and rollouts, signals and answers follow. Two numbers tell: the reverse KL to the
teacher on the unselected tokens (of the `select` stage), and the student's drift on them (of the
`train` stage). The drift alone raises no alarm, since a student that learns fast moves as much.
"""

from collections.abc import Mapping
from typing import Any

from .config.run import RunConfig

# Of the mean over all tokens in the run's first round, and of the best round so far. On the
# built-in pair every run that collapsed went beyond it, and none that ended as well as all tokens
# (docs/RESULTS.md): one round's mean fluctuates by up to a half of the first.
GROWTH = 1.5

Rounds = Mapping[int, Mapping[str, Mapping[str, Any]]]


def lost_ground(rounds: Rounds, number: int) -> tuple[int, float, float] | None:
    """Return (best round, its reverse KL, that of round `number`) on unselected tokens, or None.

    None unless it has grown to more than `GROWTH` times that of the best round before, and of all
    tokens in the first round. rounds: the numbers of each stage by round, as `status.by_round`
    gives them; KL in nats a token.
    """
    known = {
        n: stages["select"]["unselected_reverse_kl"]
        for n, stages in rounds.items()
        if "unselected_reverse_kl" in stages.get("select", {})
    }
    before = {n: value for n, value in known.items() if n < number}
    if number not in known or not before:
        return None
    best, now = min(before, key=lambda n: before[n]), known[number]
    first = rounds[min(before)]
    started = first.get("score", {}).get("reverse_kl", before[min(before)])
    if now <= GROWTH * max(before[best], started):
        return None
    return best, before[best], now


def warning(rounds: Rounds, number: int, config: RunConfig) -> str | None:
    """Return what to tell a person whose round `number` lost ground, None where it did not."""
    lost = lost_ground(rounds, number)
    if lost is None:
        return None
    best, low, now = lost
    drift = rounds.get(number - 1, {}).get("train", {}).get("drift_unselected")
    moved = f", and the last training moved it there by {drift:.4f} nats" if drift else ""
    again = f"; `--from {config.name}@{best}` goes on from where it was best" if best else ""
    return (
        "the student loses what it is not trained on: reverse KL on the unselected tokens grew "
        f"from {low:.4f} (round {best}) to {now:.4f} nats{moved}. If it goes on, lower train.lr = "
        f"{config.train.lr:g} or raise select.keep = {config.select.keep:g}{again}"
    )


def rounds_that_lost_ground(rounds: Rounds) -> list[int]:
    """Return the rounds for which a warning is due."""
    return [number for number in rounds if lost_ground(rounds, number)]
