"""The model work of a round and nothing else: what no pipeline over these tokens can go below.

Generation: body and head over the prompts, then a token at a time with the key-value cache, the
known tokens being fed. Scoring: both bodies and both heads. Training: body forward and backward,
three matrix products of the selected rows with the head, clipping and the optimiser.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pair import three_products
from tip.stages.arrays.batching import fill, pad
from tip.stages.arrays.chunks import chunk_rows
from tip.stages.engines.local.cache import keep_rows, new_cache
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.settings import ScoreSettings
from tip.stages.score.shard import RolloutArrays
from tip.stages.signals.alignment import predicting_states
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings
from torch import Tensor

_DROP_SHARE = 8  # finished rows leave the batch when they are one in so many, as in the engine


@dataclass(frozen=True)
class Bare:
    """The two models and the tokens of a round; shards: its rollouts, a shard an element."""

    student: LanguageModel
    teacher: LanguageModel
    shards: Sequence[RolloutArrays]

    @torch.inference_mode()
    def generate(self, batch_size: int) -> None:
        """Feed the tokens of all shards, in the engine's batches."""
        for shard in self.shards:
            order = np.argsort([len(p) for p in shard.student_prompts], kind="stable")
            for start in range(0, len(order), batch_size):
                self._generate(shard, order[start : start + batch_size])

    def _generate(self, shard: RolloutArrays, rows: np.ndarray) -> None:
        longest = max(len(shard.student_prompts[r]) for r in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            prompt = torch.from_numpy(shard.student_prompts[row])
            ids[place, longest - len(prompt) :] = prompt
            mask[place, longest - len(prompt) :] = 1
        responses = pad([shard.responses.row(r) for r in rows], ids.device)
        counts = torch.from_numpy(shard.responses.counts[rows].astype(np.int64))
        cache = new_cache(self.student.model)
        for step in range(int(counts.max())):
            if step:
                ids = responses[:, step - 1 : step]
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            self._one(ids, mask, cache)
            going = counts > step + 1
            if (~going).sum() * _DROP_SHARE >= len(going) and going.any():
                kept = going.nonzero().squeeze(1)
                keep_rows(cache, kept)
                mask, responses, counts = mask[kept], responses[kept], counts[kept]

    def _one(self, ids: Tensor, mask: Tensor, cache: object) -> None:
        more = {}
        if not bool(mask.all()):
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            more = {"attention_mask": mask, "position_ids": places}
        hidden = self.student.hidden(ids, past_key_values=cache, use_cache=True, **more)
        self.student.head.logits(hidden[:, -1])

    @torch.inference_mode()
    def score(self, settings: ScoreSettings) -> None:
        """Run both bodies and both heads over all shards, chunk by chunk."""
        chunk = chunk_rows(settings.chunk(), self.student.vocabulary)
        for shard in self.shards:
            lengths = [
                len(p) + c - 1
                for p, c in zip(shard.student_prompts, shard.responses.counts, strict=True)
            ]
            for rows in fill(lengths, settings.batch_tokens):
                for model in (self.student, self.teacher):
                    states = predicting_states(model, shard.student_prompts, shard.responses, rows)
                    for _ in model.head.pieces(states, chunk, model.vocabulary):
                        pass

    def train(
        self,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[Sequence[tuple[Tensor, int]]],
        clip: float,
    ) -> None:
        """Take all steps. batches: of each step, (ids of the body, rows of the head)."""
        parameters = list(self.student.model.parameters())
        for step in batches:
            optimizer.zero_grad(set_to_none=True)
            for ids, rows in step:
                hidden = self.student.hidden(ids)
                hidden.backward(torch.ones_like(hidden))
                three_products(self.student, rows)
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def micro_batches(
    data: TrainingData, rows: np.ndarray, settings: TrainSettings
) -> list[tuple[Tensor, int]]:
    """Return what a step feeds to body and head, ready: ids up to the last selected token."""
    found = []
    for batch in fill(data.lengths[rows], settings.batch_tokens):
        part = rows[batch]
        ids = [
            np.concatenate([data.prompts.row(r), data.responses.row(r)])[: data.lengths[r]]
            for r in part
        ]
        found.append((pad(ids, torch.device("cpu")), int(data.selected[part].sum())))
    return found
