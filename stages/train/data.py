"""What a round trains on, read from its tables: rollouts, the selected tokens, their supports.

Only the rows of the `teacher` payload that the selection names are kept in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ...storage.errors import StoreError
from ...storage.tables import read_table
from ..arrays.batching import on_device
from ..arrays.ragged import Ragged, concatenate, from_lists, within
from ..settings import TOKEN_LOSSES
from ..signals.alignment import read_lengths
from ..signals.residual import Residual
from ..signals.support import Support
from ..signals.supports import Cut, Supports, drawn_outside, joined, of_table, places_of


@dataclass(frozen=True)
class Drawn:
    """The sampled tokens of N positions: what a residual is made of, see `Residual`.

    tokens: [N]. logprobs: [N], nats. outside: [N].
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    outside: np.ndarray

    def take(self, tokens: np.ndarray) -> "Drawn":
        """Return some of the N in the given order."""
        return Drawn(self.tokens[tokens], self.logprobs[tokens], self.outside[tokens])


@dataclass(frozen=True)
class TrainingData:
    """R rollouts and N selected tokens, rollout after rollout.

    selected: [R] how many of the N tokens belong to each rollout. positions, weights: [N].
    trainable: [R] trainable tokens of each rollout. supports, drawn: of the N tokens; drawn is None
    where nothing asks for it. losses: [N] places in `TOKEN_LOSSES`, -1 for a token that names none;
    None where none does.
    """

    rollouts: np.ndarray
    prompts: Ragged
    responses: Ragged
    old_logprobs: Ragged
    trainable: np.ndarray
    selected: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    supports: Supports
    drawn: Drawn | None = None
    losses: np.ndarray | None = None

    def support(self, tokens: np.ndarray, device: torch.device) -> Support:
        """Return the teacher's buckets of some of the N tokens."""
        return self.supports.padded(tokens, device)

    def residual(self, tokens: np.ndarray, cap: float, device: torch.device) -> Residual:
        """Return the sampled ones of some of the N tokens. cap: on their ratios."""
        if self.drawn is None:
            raise ValueError("a residual needs the cuts of the supports: load the data with them")
        drawn = self.drawn.take(tokens)
        return Residual(
            on_device(drawn.tokens.astype(np.int64), device),
            on_device(drawn.logprobs, device),
            on_device(drawn.outside, device),
            cap,
        )

    @cached_property
    def sampled(self) -> np.ndarray:
        """Return the ids of the N tokens. Raises `StoreError` where a support lacks its own."""
        starts = np.repeat(self.responses.offsets[:-1], self.selected)
        tokens = self.responses.values[starts + self.positions]
        places_of(self.supports, tokens)
        return tokens

    def tokens(self, row: int) -> np.ndarray:
        """Return which of the N tokens belong to a rollout."""
        stop = int(self._ends[row])
        return np.arange(stop - int(self.selected[row]), stop)

    def sequence(self, row: int) -> np.ndarray:
        """Return the ids of a rollout that the body reads: up to its last selected token."""
        whole = np.concatenate([self.prompts.row(row), self.responses.row(row)])
        return whole[: self.lengths[row]]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.selected)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return how many ids each rollout feeds to the body: up to its last selected token.

        The token at position t is predicted from ids before it. 0 where nothing is selected.
        """
        if not len(self.positions):
            return np.zeros(len(self.selected), dtype=np.int64)
        last = self.positions[np.maximum(self._ends - 1, 0)]
        return np.where(self.selected > 0, read_lengths(self.prompts.counts, last + 1), 0)


def load_training_data(
    rollouts: Sequence[Path],
    teacher: Sequence[Path],
    selection: Path,
    cuts: Sequence[Cut] | None = None,
) -> TrainingData:
    """Read a round. rollouts and teacher: one file a shard, in the same order.

    cuts: of the supports of each shard, where what was sampled is wanted as well. Raises
    `StoreError` when the tables do not belong together.
    """
    chosen = _chosen(selection)
    shards = [
        _shard(r, t, chosen, cut)
        for r, t, cut in zip(rollouts, teacher, cuts or [None] * len(rollouts), strict=True)
    ]
    found = sum(len(s.positions) for s in shards)
    if found != len(chosen.rollout):
        raise StoreError(
            f"{selection}: {len(chosen.rollout) - found} selected tokens are in none of the "
            "round's rollouts; the selection was made from other tables. Select again"
        )
    return _concatenate(shards)


class _Chosen(NamedTuple):
    """The selected tokens, sorted by rollout and position. loss: see `TrainingData.losses`."""

    rollout: np.ndarray
    position: np.ndarray
    weight: np.ndarray
    loss: np.ndarray | None


def _chosen(selection: Path) -> _Chosen:
    """Read a selection; it is written in order, so that each shard finds its own as slices."""
    table = read_table([selection])
    rollout, position, weight = (table[n].to_numpy() for n in ("rollout", "position", "weight"))
    loss, order = _losses(table), np.lexsort((position, rollout))
    named = None if loss is None else loss[order]
    return _Chosen(rollout[order], position[order], weight[order], named)


def _losses(table: pa.Table) -> np.ndarray | None:
    """Return which loss each token names; selections of older versions lack the column."""
    if "loss" not in table.column_names or table["loss"].null_count == table.num_rows:
        return None
    words = table["loss"].combine_chunks().dictionary_encode()
    places = [TOKEN_LOSSES.index(word) for word in words.dictionary.to_pylist()]
    return np.array([*places, -1], np.int8)[words.indices.fill_null(len(places)).to_numpy()]


def _shard(rollouts: Path, teacher: Path, chosen: _Chosen, cut: Cut | None) -> TrainingData:
    table = read_table([rollouts])
    responses = from_lists(table["response_ids"])
    ids = table["rollout"].to_numpy()
    row, places = _rows_of(ids, chosen)
    position = chosen.position[places]
    if (position >= responses.counts[row]).any():
        raise StoreError(
            f"{rollouts}: a selected position lies beyond its response; the selection was made "
            "from other tables. Select again"
        )
    payload = _payload(teacher, responses, ids[row], row, position)
    if payload is None:
        raise StoreError(f"{teacher}: its rows are not those of {rollouts}; run `tip cache verify`")
    supports = of_table(payload)
    drawn = None
    if cut is not None:
        drawn = _drawn(table, responses.offsets[row] + position, supports, cut)
    trainable = from_lists(table["trainable"])
    sums = np.concatenate([[0], np.cumsum(trainable.values, dtype=np.int64)])
    return TrainingData(
        ids,
        from_lists(table["prompt_ids"]),
        responses,
        from_lists(table["logprobs"]),
        sums[trainable.offsets[1:]] - sums[trainable.offsets[:-1]],
        np.bincount(row, minlength=len(ids)),
        position,
        chosen.weight[places],
        supports,
        drawn,
        None if chosen.loss is None else chosen.loss[places],
    )


def _drawn(table: pa.Table, places: np.ndarray, supports: Supports, cut: Cut) -> Drawn:
    """Return the sampled tokens at some places of a shard's responses, all rows as one."""
    tokens, logprobs = (from_lists(table[n]).values[places] for n in ("response_ids", "logprobs"))
    top = Ragged(from_lists(table["top_ids"]).values, from_lists(table["top_counts"]).values)
    return Drawn(tokens, logprobs, drawn_outside(supports, tokens, top.take(places), cut))


def _payload(
    teacher: Path, responses: Ragged, rollouts: np.ndarray, row: np.ndarray, position: np.ndarray
) -> pa.Table | None:
    """Return the teacher's rows of some tokens; None if they are not where they should be."""
    table = read_table([teacher], ["rollout", "position", "ids", "logprobs", "tail"])
    if table.num_rows != len(responses.values):
        return None
    table = table.take(pa.array(responses.offsets[row] + position))
    same = (table["rollout"].to_numpy() == rollouts) & (table["position"].to_numpy() == position)
    return table if same.all() else None


def _rows_of(rollouts: np.ndarray, chosen: _Chosen) -> tuple[np.ndarray, np.ndarray]:
    """Return (row in the shard, place in `chosen`) of the selected tokens, in the shard's order."""
    first = np.searchsorted(chosen.rollout, rollouts, "left")
    counts = np.searchsorted(chosen.rollout, rollouts, "right") - first
    places = np.repeat(first, counts) + within(counts)
    return np.repeat(np.arange(len(rollouts)), counts), places


def _concatenate(shards: list[TrainingData]) -> TrainingData:
    columns: dict[str, Any] = {}
    for name in TrainingData.__dataclass_fields__:
        columns[name] = _JOINS[type(getattr(shards[0], name))]([getattr(s, name) for s in shards])
    return TrainingData(**columns)


def _joined_drawn(parts: list[Drawn]) -> Drawn:
    names = Drawn.__dataclass_fields__
    return Drawn(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


_JOINS: dict[type, Callable[[list[Any]], Any]] = {
    Ragged: concatenate,
    Supports: joined,
    Drawn: _joined_drawn,
    np.ndarray: np.concatenate,
    type(None): lambda _: None,
}
