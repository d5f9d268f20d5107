"""Evaluate: a model answers problems with known answers; each verdict is a row.

From a checkpoint and problems to the `evaluation` table, a shard at a time; its numbers are those
of all shards together. Responses are sampled by the same engine as rollouts, so the noise of a
problem does not depend on its batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.columns import EVALUATION, schema
from ..engines.protocols import Engine, Sampling, Tick, silent
from ..engines.requests import requests_of
from ..prompts.render import Prompt
from .settings import EvaluateSettings
from .statistics import Summary, summarise
from .verdicts import Verifier

VERSION = 3


def evaluate_inputs(
    model: str,
    dtype: str,
    problems: Sequence[Prompt],
    settings: EvaluateSettings,
    sampling: Sampling,
) -> dict:
    """Return what makes an evaluation: the printable value behind its key.

    model: the fingerprint of the model asked.
    """
    return {
        **settings.key(),
        "version": VERSION if settings.verifier == "math" else 1,  # texts are compared as ever
        "model": model,
        "dtype": dtype,
        "problems": [[p.hash, p.answer] for p in problems],
        "stop_ids": list(sampling.stop_ids),
        "seed": sampling.seed,
    }


def evaluate(
    engine: Engine,
    tokenizer: Any,
    problems: Sequence[Prompt],
    settings: EvaluateSettings,
    sampling: Sampling,
    verifier: Verifier,
    tick: Tick = silent,
) -> pa.Table:
    """Return the `evaluation` table of a shard, problem by problem, sample by sample.

    verifier: of the settings' kind and timeout; it serves any number of shards.
    """
    asked = [(p, sample) for p in problems for sample in range(settings.samples)]
    requests = requests_of(problems, settings.samples)
    responses = engine.generate(requests, sampling, tick)
    texts = [
        tokenizer.decode(responses.ids.row(row), skip_special_tokens=True)
        for row in range(len(asked))
    ]
    verdicts = verifier.verdicts(
        [(text, p.answer or "") for text, (p, _) in zip(texts, asked, strict=True)]
    )
    columns = {
        "problem": [p.hash for p, _ in asked],
        "sample": [sample for _, sample in asked],
        "expected": [p.answer for p, _ in asked],
        "answer": [v.answer for v in verdicts],
        "correct": [v.correct for v in verdicts],
        "verdict": [v.word for v in verdicts],
        "length": responses.ids.counts.astype(np.int32),
        "stop_reason": np.where(responses.stopped, "stop", "length"),
        "response": texts,
    }
    return pa.table(columns, schema=schema(EVALUATION))


def summary_of(table: pa.Table, settings: EvaluateSettings, seed: int = 0) -> Summary:
    """Return mean@n with its interval, pass@k and the truncation rate of an evaluation.

    table: the tables of all its shards, one after the other.
    """
    shape = (-1, settings.samples)
    correct = table["correct"].to_numpy().reshape(shape)
    truncated = np.asarray(table["stop_reason"].to_pylist()) == "length"
    return summarise(correct, truncated.reshape(shape), resamples=settings.resamples, seed=seed)
