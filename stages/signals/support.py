"""The support of a token: the ids whose teacher log-probs are kept, and the tail for all others.

Led by the student, since reverse KL is weighted by the student: the sampled token, the student's
top ids and the teacher's top ids. What is outside is one bucket, the tail, so that the stored
numbers are a true distribution. Legend: C rows of a chunk, N tokens, S slots of a set of ids, K
support slots, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arrays.mass import up_to_mass

NOTHING = -65504.0  # log of a mass that is none, for a bucket that is there: float16's least
_FOLDS = 64  # parts of a row that are laid over each other to find its largest numbers


@dataclass(frozen=True)
class Support:
    """Teacher numbers of N tokens, padded to K slots.

    ids: [N, K] int64, in a padded slot any id of the same row. valid: [N, K] bool.
    logprobs: [N, K], nats. tail: [N], nats, -inf where the support is the whole vocabulary.
    """

    ids: Tensor
    valid: Tensor
    logprobs: Tensor
    tail: Tensor

    def rows(self, start: int, stop: int) -> "Support":
        """Return a slice of the tokens."""
        return Support(
            self.ids[start:stop],
            self.valid[start:stop],
            self.logprobs[start:stop],
            self.tail[start:stop],
        )


def largest(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return each row's largest numbers, falling, and their places: `topk`, in fewer passes.

    The `count` largest lie in at most that many columns of a folded row, in those whose own largest
    are the greatest: all others need no looking at.
    """
    rows, width = numbers.shape
    folded = width // _FOLDS
    if width % _FOLDS or folded < 4 * count:
        values, places = numbers.topk(count, dim=1)
        return values, places
    columns = numbers.view(rows, _FOLDS, folded)
    chosen = columns.amax(1).topk(count, dim=1, sorted=False).indices
    few = columns.gather(2, chosen[:, None].expand(-1, _FOLDS, -1)).flatten(1)
    values, places = few.topk(count, dim=1)
    return values, places // count * folded + chosen.gather(1, places % count)


def top_ids(log_probs: Tensor, top_p: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the most probable ids up to a mass: ids [C, S] and which of them count [C, S].

    At most `most`; how far the mass reaches is the rule of `up_to_mass`.
    """
    values, ids = largest(log_probs, min(most, log_probs.shape[1]))
    return ids, up_to_mass(values.exp(), top_p)


def merge_ids(groups: list[tuple[Tensor, Tensor]], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the union of id sets, ascending: ids [C, K] and which slots are true [C, K].

    groups: pairs of ids [C, S_i] and flags. Ids from `vocabulary` on are left out. An unused slot
    repeats the row's first id.
    """
    ids = torch.cat([g.masked_fill(~flag, vocabulary) for g, flag in groups], 1)
    ids = ids.masked_fill(ids >= vocabulary, vocabulary).sort(1).values
    valid = ids < vocabulary
    valid[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return torch.where(valid, ids, ids[:, :1]), valid


@dataclass(frozen=True)
class StudentIds:
    """The student's part of the support of N tokens.

    tokens: [N] int64, the sampled ones. top: [N, S] int64, its most probable. valid: [N, S] bool,
    which of these count.
    """

    tokens: Tensor
    top: Tensor
    valid: Tensor

    def rows(self, rows: slice) -> "StudentIds":
        """Return a slice of the tokens."""
        return StudentIds(self.tokens[rows], self.top[rows], self.valid[rows])


def support_ids(
    student: StudentIds, teacher: Tensor, vocabulary: int, top_p: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return the support of C tokens: the sampled one, the student's top, the teacher's top.

    teacher: its log-probs [C, V]. vocabulary: ids from there on are left out. top_p, most: how far
    the teacher's part goes. Returns ids [C, K] and which slots are true.
    """
    top = top_ids(teacher, top_p, most) if most else None
    return student_led(student, top, min(vocabulary, teacher.shape[1]))


def student_led(
    student: StudentIds, top: tuple[Tensor, Tensor] | None, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return what `support_ids` does. top: the teacher's part, ids and flags [C, S]."""
    tokens = student.tokens[:, None]
    groups = [(tokens, torch.ones_like(tokens, dtype=torch.bool)), (student.top, student.valid)]
    return merge_ids(groups if top is None else [*groups, top], vocabulary)


def teacher_support(teacher: Tensor, ids: Tensor, valid: Tensor) -> Support:
    """Return the teacher's buckets on given ids.

    teacher: log-probs [C, V_teacher]. The tail is summed over its own ids, those that the student
    lacks included; it is -inf only where nothing is outside.
    """
    rest = teacher.scatter(1, ids, -math.inf)
    return Support(ids, valid, teacher.gather(1, ids), rest.logsumexp(1))


def drawn_support(teacher: Tensor, noise: Tensor, vocabulary: int) -> Support:
    """Return buckets of ids drawn from the teacher, each with its share of the draws.

    teacher: log-probs [C, V_teacher]. noise: [C, K] in [0, 1), one for each draw, with replacement.
    vocabulary: draws from there on are the tail's. In the mean over the noise the shares are the
    teacher's probabilities, so forward KL, which is linear in them but for a constant, has the
    gradient of the whole vocabulary.

    Source: Random Sampling KD, arXiv 2503.16870.
    """
    sums = teacher.double().exp().cumsum(1)
    ids = torch.searchsorted(sums, noise.double() * sums[:, -1:], right=True)
    ids = ids.clamp(max=teacher.shape[1] - 1).sort(1).values
    share = (ids[:, :, None] == ids[:, None, :]).sum(2) / noise.shape[1]
    valid = ids < vocabulary
    valid[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    tail = (1 - share.masked_fill(~valid, 0).sum(1)).clamp(min=0).log().clamp(min=NOTHING)
    ids = torch.where(valid, ids, ids[:, :1])
    return Support(ids, valid, share.log(), tail)
