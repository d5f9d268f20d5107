"""The embedded engine: a transformers model with a key-value cache, on a CPU or a GPU.

Rows are batched by prompt length; a row that finished leaves the batch. The next token of a row
depends on its own logits and its own noise, so a batch changes results only by the rounding of
matrix products.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...arrays.ragged import concatenate
from ...models.language_model import LanguageModel
from ..protocols import Request, Responses, Sampling, Tick, silent
from .steps import Steps

if TYPE_CHECKING:
    from .batch import Batch
    from .graphed import GraphedBatch


class LocalEngine:
    """Generates with a loaded model, `batch_size` rows at a time.

    graphs: whether a GPU replays recorded steps, of models that can be decoded so.
    """

    def __init__(self, model: LanguageModel, batch_size: int, *, graphs: bool = False) -> None:
        self.model = model
        self.batch_size = batch_size
        self._graphs = graphs

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
        batch = self._begun(requests, sampling)
        steps = Steps(len(requests), sampling, self.model.vocabulary, self.model.device)
        for _ in range(sampling.max_tokens):
            if not steps.add(batch.step()):
                continue
            steps.look(tick)
            going = steps.going
            if not going.any():
                break
            if batch.drops(going):
                kept = np.flatnonzero(going)
                steps.keep(kept)
                batch.keep(kept)
        steps.look(tick, last=True)
        return steps.responses()

    def _begun(self, requests: Sequence[Request], sampling: Sampling) -> "Batch | GraphedBatch":
        """Return a batch of which nothing is written yet."""
        from .batch import Batch  # transformers is heavy
        from .graphed import GraphedBatch, takes_rooms

        graphed = self._graphs and self.model.device.type != "cpu" and takes_rooms(self.model)
        return (GraphedBatch if graphed else Batch)(self.model, requests, sampling)
