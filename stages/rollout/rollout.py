"""Rollout: the student answers prompts; every token keeps what was known when it was drawn.

From prompts to the `rollouts` table: token ids, the raw log-prob of each sampled token, and the
student's top ids at each position, which lead the support that scoring stores.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...storage.columns import ROLLOUTS, schema
from ..engines.protocols import Engine, Request, Responses, Sampling, Tick, silent
from ..engines.requests import requests_of
from ..engines.settings import SamplingSettings
from ..prompts.render import Prompt
from .settings import RolloutSettings

VERSION = 2


def sampling_of(settings: SamplingSettings, model_stop_ids: Sequence[int], seed: int) -> Sampling:
    """Return the engine's terms for a section's settings and a model's own stop ids.

    The student's top ids are kept of rollouts alone: they lead the support that scoring stores.
    """
    kept = (0.0, 0)
    if isinstance(settings, RolloutSettings):
        kept = settings.student_top_p, settings.student_top_max
    return Sampling(
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.max_tokens,
        tuple(sorted({*settings.stop_ids, *model_stop_ids})),
        seed,
        *kept,
    )


def rollout_inputs(
    student: str,
    dtype: str,
    prompts: Sequence[Prompt],
    settings: RolloutSettings,
    sampling: Sampling,
) -> dict:
    """Return what makes a shard of rollouts: the printable value behind its key.

    student: the model's fingerprint. No round, run name or batch size is in it.
    """
    return {
        **settings.key(),
        "version": VERSION,
        "student": student,
        "dtype": dtype,
        "prompts": [p.hash for p in prompts],
        "stop_ids": list(sampling.stop_ids),
        "seed": sampling.seed,
    }


def roll_out(
    engine: Engine,
    prompts: Sequence[Prompt],
    samples: int,
    sampling: Sampling,
    tick: Tick = silent,
) -> pa.Table:
    """Return the `rollouts` table of some prompts: prompt by prompt, sample by sample."""
    asked = [(prompt, sample) for prompt in prompts for sample in range(samples)]
    requests = requests_of(prompts, samples)
    return _table(asked, requests, engine.generate(requests, sampling, tick))


def _table(
    asked: Sequence[tuple[Prompt, int]], requests: Sequence[Request], responses: Responses
) -> pa.Table:
    ids = responses.ids
    borders = pa.array(ids.offsets.astype(np.int32))
    tops = pa.array(responses.top.offsets[ids.offsets].astype(np.int32))

    def per_token(values: np.ndarray, type_: pa.DataType, offsets: pa.Array = borders) -> pa.Array:
        field = pa.field("element", type_, nullable=False)
        return pa.ListArray.from_arrays(offsets, pa.array(values).cast(type_), type=pa.list_(field))

    columns = {
        "rollout": [r.rollout for r in requests],
        "prompt_hash": [p.hash for p, _ in asked],
        "sample": [s for _, s in asked],
        "prompt_ids": [list(r.prompt_ids) for r in requests],
        "response_ids": per_token(ids.values, pa.int32()),
        "trainable": per_token(np.ones(len(ids.values), dtype=bool), pa.bool_()),
        "logprobs": per_token(responses.logprobs, pa.float32()),
        "top_ids": per_token(responses.top.values, pa.int32(), tops),
        "top_counts": per_token(responses.top.counts, pa.int32()),
        "stop_reason": np.where(responses.stopped, "stop", "length"),
        "reward": pa.nulls(len(requests), pa.float32()),
    }
    return pa.table(columns, schema=schema(ROLLOUTS))
