"""Supports as they are stored: ragged rows of ids and log-probs, a row a token, and a tail.

The one carrier between tensors and the `teacher` table: cut from a chunk, joined, put in order,
written, read, picked for training, and padded on a device again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ...storage.errors import StoreError
from ..arrays.batching import on_device
from ..arrays.coming import ComingColumns
from ..arrays.ragged import Ragged, concatenate, from_lists
from .support import NOTHING, Support

_PAD = -1  # no id


@dataclass(frozen=True)
class Supports:
    """The teacher's buckets of N tokens.

    ids: N rows of int32, ascending. logprobs: N rows of float16, nats. tail: [N] float32, nats,
    -inf where nothing is outside the support.
    """

    ids: Ragged
    logprobs: Ragged
    tail: np.ndarray

    def __len__(self) -> int:
        return len(self.tail)

    def take(self, tokens: np.ndarray) -> "Supports":
        """Return the supports of the given tokens in the given order."""
        return Supports(self.ids.take(tokens), self.logprobs.take(tokens), self.tail[tokens])

    def padded(self, tokens: np.ndarray, device: torch.device) -> Support:
        """Return the teacher's buckets of some tokens on a device."""
        padded, valid = self.ids.padded(tokens)
        values, _ = self.logprobs.padded(tokens)
        slots = np.where(valid, padded, padded[:, :1]).astype(np.int64)
        return Support(
            on_device(slots, device),
            on_device(valid, device),
            on_device(values.astype(np.float32), device),
            on_device(self.tail[tokens], device),
        )

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns of the `teacher` table that hold them.

        A tail is null where nothing is outside; one that is no number stays, and is refused there.
        """
        return {
            "ids": self.ids.lists(pa.int32()),
            "logprobs": self.logprobs.lists(pa.float16()),
            "tail": pa.array(self.tail, mask=self.tail == -np.inf),
        }


@dataclass(frozen=True)
class Cut:
    """How far the teacher's part of a support goes: see `support.top_ids`."""

    top_p: float
    most: int


def drawn_outside(supports: Supports, tokens: np.ndarray, student: Ragged, cut: Cut) -> np.ndarray:
    """Return which of N sampled tokens are in their supports for having been sampled alone, [N].

    tokens: [N], the sampled ones. student: N rows, the student's top ids. cut: of the teacher's.
    Nothing stored says so, but it follows: the ids that the teacher prefers to a token of its own
    part are all there, so the token is one of that part where few enough of them are, and what is
    not preferred to it, the tail included, is more than `top_p` leaves out. Log-probs of float16
    can mistake a token at the very border. Raises `StoreError` for a token that is not there.
    """
    row, own = places_of(supports, tokens)
    logprobs = supports.logprobs.values.astype(np.float64)
    preferred = (logprobs >= logprobs[own][row]) & ~own  # ties are: the teacher's part is full
    count = len(supports)
    before = np.bincount(row[preferred], minlength=count)
    rest = np.where(preferred, 0, np.exp(logprobs))
    left = np.bincount(row, rest, minlength=count) + np.exp(supports.tail.astype(np.float64))
    teachers = (before < cut.most) & ((left > 1 - cut.top_p) | (cut.top_p == 1))
    place = np.repeat(np.arange(count), student.counts)
    students = np.bincount(place[student.values == tokens[place]], minlength=count) > 0
    return ~(teachers | students)


def places_of(supports: Supports, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each id of the supports, and whether it is the row's sampled token.

    tokens: [N], the sampled ones. Raises `StoreError` for one that is not in its support.
    """
    row = np.repeat(np.arange(len(supports)), supports.ids.counts)
    own = supports.ids.values == tokens[row]
    if not np.array_equal(row[own], np.arange(len(supports))):
        raise StoreError("a sampled token is not in its stored support: run `tip cache verify`")
    return row, own


def of_table(table: pa.Table) -> Supports:
    """Return the supports in a `teacher` table."""
    ids, logprobs = from_lists(table["ids"]), from_lists(table["logprobs"])
    tail = pc.fill_null(table["tail"], pa.scalar(-np.inf, pa.float32()))
    return Supports(ids, logprobs, tail.to_numpy())


def support_columns(chunks: Sequence[Support]) -> dict[str, Tensor]:
    """Return the supports of the tokens of some chunks as columns to be sent to the host."""
    return {
        "ids": torch.cat([c.ids.int().masked_fill(~c.valid, _PAD) for c in chunks]),
        "logprobs": torch.cat([c.logprobs for c in chunks]),
        "tail": torch.cat([c.tail for c in chunks]),
    }


def of_columns(columns: Mapping[str, np.ndarray]) -> Supports:
    """Return the supports in columns that have come to the host, without padding."""
    ids = columns["ids"]
    valid = ids != _PAD
    counts = valid.sum(1).astype(np.int32)
    return stored(ids[valid], columns["logprobs"][valid], counts, columns["tail"])


def of_chunk(support: Support) -> Supports:
    """Return the supports of the tokens of one chunk; a GPU is waited for."""
    return of_columns(ComingColumns(support_columns([support])).arrays())


def stored(ids: np.ndarray, logprobs: np.ndarray, counts: np.ndarray, tail: np.ndarray) -> Supports:
    """Return flat ids and log-probs in the types that tables hold; counts: of each token."""
    halves = np.maximum(logprobs, NOTHING).astype(np.float16)
    return Supports(Ragged(ids.astype(np.int32), counts), Ragged(halves, counts), tail)


def joined(parts: Sequence[Supports]) -> Supports:
    """Return the supports of several parts, one after the other."""
    return Supports(
        concatenate([p.ids for p in parts]),
        concatenate([p.logprobs for p in parts]),
        np.concatenate([p.tail for p in parts]),
    )
