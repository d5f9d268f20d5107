"""A key-value cache whose rows leave when they finish and whose buffer grows in place.

transformers' dynamic cache copies every key and value at each token; here a token costs its own
bytes. Only plain full attention is served: `grows` says whether a cache has nothing else.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_STEP = 64  # tokens of room added at the least when a buffer is full


class _GrowingLayer(DynamicLayer):
    """Keys and values [B, H, T, head] in buffers with room to spare."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0
        self._key_room: Tensor | None = None
        self._value_room: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append and return all keys and values so far, as views."""
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._key_room = _with_room(self._key_room, key_states, start, self._length)
        self._value_room = _with_room(self._value_room, value_states, start, self._length)
        self._key_room[:, :, start : self._length] = key_states
        self._value_room[:, :, start : self._length] = value_states
        self.is_initialized = True
        self.keys = self._key_room[:, :, : self._length]
        self.values = self._value_room[:, :, : self._length]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        return self._length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        if self._key_room is not None and self._value_room is not None:
            self._key_room = self._key_room[indices]
            self._value_room = self._value_room[indices]


def _with_room(room: Tensor | None, states: Tensor, held: int, needed: int) -> Tensor:
    if room is not None and room.shape[2] >= needed:
        return room
    batch, heads, _, width = states.shape
    grown = states.new_empty(batch, heads, max(needed + _STEP, int(1.5 * held)), width)
    if room is not None:
        grown[:, :, :held] = room[:, :, :held]
    return grown


def new_cache(model: Any) -> Cache:
    """Return an empty cache: the growing one, or transformers' own where attention is windowed."""
    usual = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in usual.layers):
        return Cache(layers=[_GrowingLayer() for _ in usual.layers])
    return usual


def grows(cache: Cache) -> bool:
    """Tell whether a cache that has been used grows in place and holds all that was read."""
    return all(type(layer) is _GrowingLayer and layer.is_initialized for layer in cache.layers)


def drops_rows(cache: Cache) -> bool:
    """Tell whether rows can leave a cache: those of convolutions and linear attention keep theirs.

    A layer that keeps more than keys (states, compressed keys) and inherits how rows are dropped
    would drop them of its keys alone; one that holds nothing belongs to a model that keeps what it
    has read elsewhere. Known once the cache has been used.
    """
    return all(_drops_rows(layer) for layer in cache.layers)


def _drops_rows(layer: Any) -> bool:
    kind = type(layer)
    whole = "batch_select_indices" in vars(kind) or kind is DynamicSlidingWindowLayer
    return whole and layer.is_initialized


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drop all other rows of the batch."""
    cache.batch_select_indices(rows)
