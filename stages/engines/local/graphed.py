"""Decoding whose steps are one CUDA graph: a step's kernels are recorded once and replayed.

Launched one by one the kernels of a step cost the host more time than they cost the GPU. A graph
replays them at once, on the same memory: so keys and values lie in rooms of a fixed size, and
where the next token goes is a number on the device. When a room is full, or many rows have
finished, rooms are made anew and the next steps are recorded again.

The layout is tested on a CPU, where steps are computed each time. **Recording and replaying were
not tried on a GPU.** Legend: B rows, L places of a room.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ...arrays.batching import on_device
from ...models.language_model import LanguageModel
from ..protocols import Request, Sampling
from .batch import Batch, left_padded, next_tokens, noise_of
from .cache import grows, new_cache
from .continuing import next_states

_SPARE = 256  # places of a new room beyond what it holds, at the least
_DROP_SHARE = 2  # finished rows leave when they are half: what is recorded is then worthless
_WARM = 3  # steps before one is recorded: libraries take their memory in the first


class _RoomLayer(DynamicLayer):
    """Keys and values [B, H, L, head] of a room. place: [1] int64, where the next token goes."""

    def __init__(self, rooms: tuple[Tensor, Tensor], place: Tensor) -> None:
        super().__init__()
        self._rooms, self._place = rooms, place
        self.keys, self.values = rooms
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the keys and values of one token in place, and return the whole room."""
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room.index_copy_(2, self._place, states)
        return self._rooms

    def get_seq_length(self) -> int:
        """Return the places of the room; who asks wants no position: those are given."""
        return self._rooms[0].shape[2]


class GraphedBatch:
    """A batch like `Batch`, of a model that `takes_rooms`."""

    def __init__(
        self, model: LanguageModel, requests: Sequence[Request], sampling: Sampling
    ) -> None:
        self._model, self._sampling = model, sampling
        ids, places, mask = left_padded(requests, model.device)
        cache = new_cache(model.model)
        hidden = next_states(model, ids, places, mask, cache)
        self._noise = noise_of(requests, sampling, model.device)
        tokens, self._first = next_tokens(model, hidden[:, -1], self._noise[:, 0], sampling)
        self._held = ids.shape[1]  # tokens in the room, as the host counts them
        self._longest = self._held + sampling.max_tokens
        shown = torch.ones_like(ids) if mask is None else mask
        self._ids, self._places = tokens[:, None], places[:, -1:] + 1
        self._step = ids.new_ones(1)
        layers: Any = cache.layers  # all of them grow, as was shown
        self._move([(layer.keys, layer.values) for layer in layers], shown.bool())
        self._started = False

    def step(self) -> Tensor:
        """Write a token of each row; return what is kept of the step, see `packed`."""
        if not self._started:
            self._started = True
            return self._first
        if self._held == self._shown.shape[1]:
            self._move(self._rooms, self._shown)
        self._held += 1
        return self._replayed()

    def drops(self, going: np.ndarray) -> bool:
        """Tell whether the rows that have finished should leave. going: [B] those that have not."""
        return bool((~going).sum() * _DROP_SHARE >= len(going))

    def keep(self, kept: np.ndarray) -> None:
        """Let all rows but these leave."""
        rows = on_device(kept, self._model.device)
        self._ids, self._places = self._ids[rows], self._places[rows]
        self._noise = self._noise[rows]
        self._move([(k[rows], v[rows]) for k, v in self._rooms], self._shown[rows])

    def _move(self, held: list[tuple[Tensor, Tensor]], shown: Tensor) -> None:
        """Make rooms for what is held, with places to spare, and forget what was recorded.

        shown: [B, ...] which of the places hold a token that is no padding.
        """
        count = self._held
        size = min(max(count + _SPARE, 2 * count), self._longest)
        self._place = self._step.new_full((1,), count)
        self._rooms = [(_room(k, count, size), _room(v, count, size)) for k, v in held]
        self._cache = Cache(layers=[_RoomLayer(rooms, self._place) for rooms in self._rooms])
        self._shown = _room(shown, count, size)
        self._replayed = _replayed(self._compute, self._model.device)

    def _compute(self) -> Tensor:
        """Compute a step in place: what it reads and writes lies where it did at the last one."""
        self._shown.index_fill_(1, self._place, True)
        mask = self._shown[:, None, None]
        hidden = next_states(self._model, self._ids, self._places, mask, self._cache)
        noise = self._noise.index_select(1, self._step).squeeze(1)
        tokens, written = next_tokens(self._model, hidden[:, -1], noise, self._sampling)
        self._ids.copy_(tokens[:, None])
        for number in (self._places, self._place, self._step):
            number.add_(1)
        return written


def _room(held: Tensor, count: int, size: int) -> Tensor:
    """Return zeros of `size` places along the tokens, the first `count` as they were."""
    axis = 1 if held.dim() == 2 else 2
    shape = [*held.shape[:axis], size, *held.shape[axis + 1 :]]
    room = held.new_zeros(shape)
    room.narrow(axis, 0, count).copy_(held.narrow(axis, 0, count))
    return room


def _replayed(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Return what computes a step: on a GPU, after a few, by replaying one that it recorded."""
    if device.type != "cuda":
        return compute
    graph: torch.cuda.CUDAGraph | None = None
    written, computed = None, 0

    def step() -> Tensor:
        nonlocal graph, written, computed
        if computed < _WARM:
            computed += 1
            return compute()
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # records, and computes nothing
                written = compute()
        graph.replay()
        assert written is not None
        return written.clone()  # the next step writes over it

    return step


_rooms: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
# Of the median log-prob, in nats. What is wrong is off by tenths of nats; rounding by 1e-6, in 16
# bits by hundredths, and one token in some takes another way then.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-3, 0.05


def takes_rooms(model: LanguageModel) -> bool:
    """Tell whether a model computes in rooms what it computes in a cache that grows.

    Shown once a model, on prompts of two lengths; only plain full attention is asked.
    """
    if model.model not in _rooms:
        _rooms[model.model] = _same(model)
    return _rooms[model.model]


@torch.inference_mode()
def _same(model: LanguageModel) -> bool:
    asked = [Request(tuple(range(2, 2 + n)), n) for n in (3, 5)]
    terms = Sampling(0.0, 1.0, 0, 3 + _WARM, (), 0)  # the last steps are replayed
    plain = Batch(model, asked, terms)
    expected = torch.stack([plain.step() for _ in range(terms.max_tokens)])
    if not grows(plain.cache):
        return False
    try:
        batch = GraphedBatch(model, asked, terms)
        found = torch.stack([batch.step() for _ in range(terms.max_tokens)])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    one, other = (steps[:, :, 1].contiguous().view(torch.float32) for steps in (found, expected))
    limit = _TOLERANCE if model.dtype == torch.float32 else _TOLERANCE_16_BITS
    return bool((one - other).abs().median() <= limit)
