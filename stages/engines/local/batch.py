"""A batch of rows that are written token by token."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...arrays.batching import on_device
from ...arrays.log_softmax import log_softmax
from ...arrays.noise import uniforms
from ...models.language_model import LanguageModel
from ...signals.support import top_ids
from ..protocols import Request, Sampling
from .cache import drops_rows, keep_rows, new_cache
from .continuing import next_states
from .sampling import draw
from .steps import packed

_DROP_SHARE = 8  # finished rows leave when they are one in so many: leaving copies the cache


class Batch:
    """Rows in the order of their requests, until some leave. Legend: B rows, T tokens read.

    cache: the keys and values of what they have read.
    """

    def __init__(
        self, model: LanguageModel, requests: Sequence[Request], sampling: Sampling
    ) -> None:
        self._model, self._sampling, self._step = model, sampling, 0
        self._ids, self._places, self._mask = left_padded(requests, model.device)
        self._noise = noise_of(requests, sampling, model.device)
        self.cache = new_cache(model.model)

    def step(self) -> Tensor:
        """Write a token of each row; return what is kept of the step, see `packed`."""
        hidden = next_states(self._model, self._ids, self._places, self._mask, self.cache)
        noise = self._noise[:, self._step]
        tokens, written = next_tokens(self._model, hidden[:, -1], noise, self._sampling)
        self._ids, self._places = tokens[:, None], self._places[:, -1:] + 1
        if self._mask is not None:
            self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._step += 1
        return written

    def drops(self, going: np.ndarray) -> bool:
        """Tell whether the rows that have finished should leave. going: [B] those that have not."""
        return bool((~going).sum() * _DROP_SHARE >= len(going)) and drops_rows(self.cache)

    def keep(self, kept: np.ndarray) -> None:
        """Let all rows but these leave."""
        rows = on_device(kept, self._model.device)
        keep_rows(self.cache, rows)
        self._ids, self._places = self._ids[rows], self._places[rows]
        self._noise = self._noise[rows]
        self._mask = None if self._mask is None else self._mask[rows]


def next_tokens(
    model: LanguageModel, states: Tensor, noise: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Return the tokens [B] that states [B, D] lead to, and what is kept of them (`packed`).

    noise: [B], see `draw`.
    """
    logits = model.head.logits(states)
    tokens = draw(logits, noise, sampling.temperature, sampling.top_p, sampling.top_k)
    log_probs = log_softmax(logits)
    ids, kept = _top(log_probs, sampling)
    return tokens, packed(tokens, log_probs.gather(1, tokens[:, None]).squeeze(1), ids, kept)


def _top(log_probs: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    if not sampling.top_most:
        none = log_probs.new_zeros(len(log_probs), 0, dtype=torch.long)
        return none, none.bool()
    return top_ids(log_probs, sampling.top_mass, sampling.top_most)


def left_padded(
    requests: Sequence[Request], device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return prompts [B, T] with the padding in front, their positions, and a mask where any is."""
    longest = max(len(r.prompt_ids) for r in requests)
    ids = np.zeros((len(requests), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.prompt_ids) :] = request.prompt_ids
        mask[row, longest - len(request.prompt_ids) :] = 1
    places = (mask.cumsum(1) - 1).clip(min=0)
    shown = None if mask.all() else on_device(mask, device)
    return on_device(ids, device), on_device(places, device), shown


def noise_of(requests: Sequence[Request], sampling: Sampling, device: torch.device) -> Tensor:
    """Return uniform numbers [B, max_tokens] float64, keyed by rollout and position."""
    rollouts = np.array([r.rollout for r in requests], dtype=np.uint64)
    table = uniforms(sampling.seed, rollouts, np.arange(sampling.max_tokens))
    return on_device(table, device)
