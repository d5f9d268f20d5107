"""Tables of a long round, and all that a trainer reads of them: what reading costs a token.

Random supports compress worse than real ones, so real tables are read no slower.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from round_bare import micro_batches
from tip.stages.arrays.ragged import Ragged
from tip.stages.train.data import load_training_data
from tip.stages.train.settings import TrainSettings
from tip.storage.columns import ROLLOUTS, SELECTION, TEACHER, schema
from tip.storage.tables import write_table

SHARDS, ROWS, PROMPT, RESPONSE, ENTRIES, KEEP = 4, 32, 128, 512, 64, 0.2
VOCABULARY = 49_152
TOKENS = SHARDS * ROWS * RESPONSE


def write_round(folder: Path) -> tuple[list[Path], list[Path], Path]:
    """Write the tables of a round, and return those of rollouts, of the teacher, the selection."""
    rng = np.random.default_rng(0)
    rollouts, teacher = [], []
    for shard in range(SHARDS):
        ids = np.arange(shard * ROWS, (shard + 1) * ROWS)
        rollouts.append(folder / f"rollouts-{shard}.parquet")
        write_table(rollouts[-1], _rollouts(ids, rng), ROLLOUTS)
        teacher.append(folder / f"teacher-{shard}.parquet")
        write_table(teacher[-1], _teacher(ids, rng), TEACHER)
    kept = np.sort(rng.permutation(TOKENS)[: int(KEEP * TOKENS)])
    columns = {
        "rollout": kept // RESPONSE,
        "position": (kept % RESPONSE).astype(np.int32),
        "weight": np.ones(len(kept), np.float32),
        "loss": pa.nulls(len(kept)),
        "type": ["Q1"] * len(kept),
        "importance": np.ones(len(kept)),
    }
    selection = folder / "selection.parquet"
    write_table(selection, pa.table(columns).cast(schema(SELECTION)), SELECTION)
    return rollouts, teacher, selection


def read_round(tables: tuple[list[Path], list[Path], Path], settings: TrainSettings) -> int:
    """Read a round and make all its batches and supports, as training does; return the tokens."""
    data = load_training_data(*tables)
    for start in range(0, len(data.rollouts), settings.rollouts_per_step):
        rows = np.arange(start, min(start + settings.rollouts_per_step, len(data.rollouts)))
        micro_batches(data, rows, settings)
        tokens = np.concatenate([data.tokens(int(row)) for row in rows])
        data.support(tokens, torch.device("cpu"))
    return len(data.positions)


def _rollouts(ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    each = np.full(ROWS, RESPONSE)
    top = rng.integers(0, VOCABULARY, (ROWS, RESPONSE)).astype(np.int32)  # one id a token
    ones = Ragged(np.ones(ROWS * RESPONSE, np.int32), each)
    columns = {
        "rollout": ids,
        "prompt_hash": [f"{row}" for row in ids],
        "sample": np.zeros(ROWS, np.int32),
        "prompt_ids": list(rng.integers(0, VOCABULARY, (ROWS, PROMPT))),
        "response_ids": Ragged(top.ravel(), each).lists(pa.int32()),
        "trainable": ones.lists(pa.bool_()),
        "logprobs": ones.lists(pa.float32()),
        "top_ids": Ragged(top.ravel(), each).lists(pa.int32()),
        "top_counts": ones.lists(pa.int32()),
        "stop_reason": ["length"] * ROWS,
        "reward": pa.nulls(ROWS, pa.float32()),
    }
    return pa.table(columns, schema=schema(ROLLOUTS))


def _teacher(ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    n = ROWS * RESPONSE
    each = np.full(n, ENTRIES)
    steps = rng.integers(1, VOCABULARY // ENTRIES, (n, ENTRIES))  # ids rise within a support
    columns = {
        "rollout": np.repeat(ids, RESPONSE),
        "position": np.tile(np.arange(RESPONSE, dtype=np.int32), ROWS),
        "ids": Ragged(steps.cumsum(1).astype(np.int32).ravel(), each).lists(pa.int32()),
        "logprobs": Ragged(rng.uniform(-15, -5, n * ENTRIES).astype(np.float16), each).lists(
            pa.float16()
        ),
        "tail": rng.uniform(-9, -1, n).astype(np.float32),
        "entropy": np.ones(n, np.float32),
    }
    return pa.table(columns, schema=schema(TEACHER))
