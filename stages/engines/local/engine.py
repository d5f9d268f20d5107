"""The embedded engine: a transformers model with a key-value cache, on a CPU or a GPU.

Rows are batched by prompt length; a row that finished leaves the batch. The next token of a row
depends on its own logits and its own noise, so a batch changes results only by the rounding of
matrix products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ....storage.errors import NumericsError
from ...arrays.log_softmax import log_softmax
from ...arrays.noise import uniforms
from ...arrays.ragged import Ragged, concatenate
from ...models.language_model import LanguageModel
from ...signals.support import top_ids
from ..protocols import Request, Responses, Sampling, Tick, silent
from .sampling import draw

_DROP_SHARE = 8  # finished rows leave when they are one in so many: leaving copies the cache


@dataclass
class _Steps:
    """What a batch has produced so far, step after step, rows in the order they are alive."""

    rows: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    top: list[Ragged] = field(default_factory=list)

    def responses(self, count: int, stop_ids: Tensor) -> Responses:
        """Return the steps regrouped row by row."""
        rows = np.concatenate(self.rows)
        order = np.argsort(rows, kind="stable")
        tokens = np.concatenate(self.tokens)[order]
        ids = Ragged(tokens.astype(np.int32), np.bincount(rows, minlength=count))
        stopped = np.isin(tokens[ids.offsets[1:] - 1], stop_ids.cpu().numpy())
        logprobs = np.concatenate(self.logprobs)[order]
        return Responses(ids, logprobs, concatenate(self.top).take(order), stopped)


class LocalEngine:
    """Generates with a loaded model, `batch_size` rows at a time."""

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, tick: Tick = silent
    ) -> Responses:
        """Return a response for each request, in their order."""
        batches = list(self._batches(requests))
        parts = [self._batch([requests[i] for i in batch], sampling, tick) for batch in batches]
        back = np.argsort(np.concatenate(batches), kind="stable")
        ids = concatenate([p.ids for p in parts])
        tokens = ids.places(back)
        return Responses(
            ids.take(back),
            np.concatenate([p.logprobs for p in parts])[tokens],
            concatenate([p.top for p in parts]).take(tokens),
            np.concatenate([p.stopped for p in parts])[back],
        )

    def prefetch(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Do nothing: this engine works when it is asked."""

    def abort(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Do nothing: nothing was begun."""

    def _batches(self, requests: Sequence[Request]) -> Iterator[np.ndarray]:
        """Yield the requests of each batch: neighbours in prompt length, so little is padding.

        Of one length where the model does not take any.
        """
        from .continuing import takes_padding  # transformers is heavy

        lengths = np.array([len(r.prompt_ids) for r in requests])
        order = np.argsort(lengths, kind="stable")
        runs = [order]
        if not takes_padding(self.model):
            runs = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        for run in runs:
            for start in range(0, len(run), self.batch_size):
                yield run[start : start + self.batch_size]

    def _batch(self, requests: Sequence[Request], sampling: Sampling, tick: Tick) -> Responses:
        device = self.model.device
        ids, places, mask = _left_padded(requests, device)
        noise = _noise(requests, sampling, device)
        stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.long, device=device)
        from .cache import drops_rows, keep_rows, new_cache  # transformers is heavy
        from .continuing import next_states

        cache, steps = new_cache(self.model.model), _Steps()
        alive = torch.arange(len(requests), device=device)  # which request each row belongs to
        going = torch.ones(len(requests), dtype=torch.bool, device=device)
        for step in range(sampling.max_tokens):
            hidden = next_states(self.model, ids, places, mask, cache)
            logits = self.model.head.logits(hidden[:, -1])
            tokens = draw(logits, noise[alive, step], *_drawing(sampling))
            self._record(steps, alive, going, tokens, logits, sampling)
            ended = going & torch.isin(tokens, stop_ids)
            going = going & ~ended
            tick(int(ended.sum()))
            if not going.any():
                break
            ids, places = tokens[:, None], places[:, -1:] + 1
            mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
            if (~going).sum() * _DROP_SHARE >= len(going) and drops_rows(cache):
                kept = going.nonzero().squeeze(1)
                keep_rows(cache, kept)
                ids, places, alive, going = ids[kept], places[kept], alive[kept], going[kept]
                mask = None if mask is None else mask[kept]
        tick(int(going.sum()))  # those that the length limit ended
        return steps.responses(len(requests), stop_ids)

    def _record(
        self,
        steps: _Steps,
        alive: Tensor,
        going: Tensor,
        tokens: Tensor,
        logits: Tensor,
        sampling: Sampling,
    ) -> None:
        """Keep what this step says of the rows that still go on."""
        log_probs = log_softmax(logits)
        picked = log_probs.gather(1, tokens[:, None]).squeeze(1)[going]
        if not picked.isfinite().all():
            raise NumericsError(
                "the student's logits hold NaN or infinity while it samples: nothing of this shard "
                "is stored; try student.dtype = 'float32' or an earlier checkpoint"
            )
        counts = np.zeros(len(picked), dtype=np.int32)
        values = np.zeros(0, dtype=np.int32)
        if sampling.top_most:
            # of the few that ended, too: leaving them out first would copy all others' log-probs
            top, kept = top_ids(log_probs, sampling.top_mass, sampling.top_most)
            top, kept = top[going], kept[going]
            counts = kept.sum(1).cpu().numpy().astype(np.int32)
            values = top[kept].cpu().numpy().astype(np.int32)
        steps.rows.append(alive[going].cpu().numpy())
        steps.tokens.append(tokens[going].cpu().numpy())
        steps.logprobs.append(picked.float().cpu().numpy())
        steps.top.append(Ragged(values, counts))


def _drawing(sampling: Sampling) -> tuple[float, float, int]:
    return sampling.temperature, sampling.top_p, sampling.top_k


def _left_padded(
    requests: Sequence[Request], device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return prompts [B, T] with the padding in front, their positions, and a mask where any is."""
    longest = max(len(r.prompt_ids) for r in requests)
    ids = torch.zeros(len(requests), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, longest - len(request.prompt_ids) :] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), places.to(device), None if bool(mask.all()) else mask.to(device)


def _noise(requests: Sequence[Request], sampling: Sampling, device: torch.device) -> Tensor:
    """Return uniform numbers [B, max_tokens] float64, keyed by rollout and position."""
    rollouts = np.array([r.rollout for r in requests], dtype=np.uint64)
    table = uniforms(sampling.seed, rollouts, np.arange(sampling.max_tokens))
    return torch.from_numpy(table).to(device)
