"""The support of a token from ids that an engine fetched, and the tail of all it did not fetch.

An engine gives, for each position, the log-prob of the token itself and of its most probable ids,
and, where it can, of ids it is given. From these the support is cut as everywhere (`support.py`):
the sampled token, the student's top ids, the teacher's top ids. Where an engine cannot be given
ids, those of the student's among the engine's own stay, and the others are in the tail.

The tail is what was fetched and not kept, plus what was not fetched: one minus the sum of all that
was, which in float32 is right to about 1e-6 of mass. Legend: N tokens, E fetched ids, S ids of the
student's, V vocabulary of the teacher.
"""

from dataclasses import dataclass

import numpy as np

from ...storage.errors import NumericsError
from ..arrays.mass import up_to_mass
from .supports import Supports, stored

EXCESS = 1e-3  # log-prob above 0, or mass above 1, that rounding can explain


@dataclass(frozen=True)
class Fetched:
    """What an engine says of N tokens.

    ids, logprobs: [N, 1 + E] the token itself, then the most probable, falling. student: [N, S] the
    student's top ids, and `valid` which of them count. given: [N, S] their log-probs, None where
    the engine could not be asked for them.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    student: np.ndarray
    valid: np.ndarray
    given: np.ndarray | None

    def rows(self, rows: slice) -> "Fetched":
        """Return a slice of the tokens."""
        given = None if self.given is None else self.given[rows]
        return Fetched(
            self.ids[rows], self.logprobs[rows], self.student[rows], self.valid[rows], given
        )


def cut_support(
    fetched: Fetched, vocabulary: int, common: int, top_p: float, most: int
) -> tuple[Supports, np.ndarray]:
    """Return the supports of N tokens, and the entropy [N] in nats.

    vocabulary: V. common: ids that both models have. top_p, most: how far the teacher's part goes.
    The entropy is that of the fetched ids and one bucket for all others, a lower bound. Raises
    `NumericsError` where the ids of a token hold more than all mass.
    """
    ids, logprobs = fetched.ids, fetched.logprobs.astype(np.float64)
    count = len(ids)
    teachers = up_to_mass(np.exp(logprobs[:, 1:]), top_p)
    teachers &= np.arange(logprobs.shape[1] - 1) < most
    student, valid, given = fetched.student, fetched.valid, fetched.given
    if given is None:
        same = ids[:, 1:, None] == student[:, None, :]
        teachers |= (same & valid[:, None, :]).any(2)
        student, valid, given = student[:, :0], valid[:, :0], np.zeros((count, 0))
    everything = np.concatenate([ids, student], 1).astype(np.int64)
    values = np.concatenate([logprobs, given.astype(np.float64)], 1)
    token = np.ones((count, 1), dtype=bool)
    known = np.concatenate([token, np.ones_like(teachers), valid], 1) & np.isfinite(values)
    keep = np.concatenate([token, teachers, valid], 1) & (everything < common)
    # ids that were not fetched are no more probable than the last that was
    return _buckets(everything, values, known, keep, vocabulary, logprobs[:, -1])


def no_log_probs(what: str) -> NumericsError:
    """Return the error for numbers that are those of no distribution."""
    return NumericsError(
        f"the teacher's engine gives {what}, as no distribution does: nothing of the shard is "
        "stored; a server must run with --logprobs-mode raw_logprobs"
    )


def _buckets(
    ids: np.ndarray,
    values: np.ndarray,
    known: np.ndarray,
    keep: np.ndarray,
    vocabulary: int,
    largest: np.ndarray,
) -> tuple[Supports, np.ndarray]:
    """Return the kept entries in the order of their ids, the tail of all others, the entropy.

    An id that stands twice counts once, and is kept if one of them is. largest: [N] the greatest
    log-prob that an id which is not known can have.
    """
    order = np.lexsort((~keep, np.where(known, ids, vocabulary)), axis=1)
    ids, values, known, keep = (np.take_along_axis(a, order, 1) for a in (ids, values, known, keep))
    known[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    keep &= known
    p = np.where(known, np.exp(values), 0)
    if p.sum(1).max(initial=0) > 1 + EXCESS:
        raise no_log_probs(f"a token's ids a mass of {p.sum(1).max():.4g}")
    count = known.sum(1)
    room = (vocabulary - count) * np.exp(largest)
    unseen = np.clip(1 - p.sum(1), np.where(count < vocabulary, 1e-30, 0), room)
    outside = np.where(keep, 0, p).sum(1) + unseen
    with np.errstate(divide="ignore"):
        tail = np.log(outside)
        terms = np.where(unseen > 0, unseen * np.log(np.maximum(unseen, 1e-300)), 0)
    entropy = -(p * np.where(known, values, 0)).sum(1) - terms
    supports = stored(
        ids[keep], values[keep], keep.sum(1).astype(np.int32), tail.astype(np.float32)
    )
    return supports, np.maximum(entropy, 0)
