"""Tables of a round, of random numbers: rollouts, the teacher's signals, a selection."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tip.stages.arrays.ragged import Ragged
from tip.storage.columns import ROLLOUTS, SELECTION, TEACHER, schema
from tip.storage.tables import write_table

ENTRIES, KEEP = 64, 0.2


@dataclass(frozen=True)
class Sizes:
    """Shards of a round, rollouts of each, and tokens of each prompt and response."""

    shards: int = 4
    rows: int = 32
    prompt: int = 128
    response: int = 512
    vocabulary: int = 49_152

    @property
    def tokens(self) -> int:
        """Return the response tokens of the round."""
        return self.shards * self.rows * self.response


def write_round(folder: Path, sizes: Sizes) -> tuple[list[Path], list[Path], Path]:
    """Write the tables of a round, and return those of rollouts, of the teacher, the selection."""
    rng = np.random.default_rng(0)
    rollouts, teacher = [], []
    for shard in range(sizes.shards):
        ids = np.arange(shard * sizes.rows, (shard + 1) * sizes.rows)
        rollouts.append(folder / f"rollouts-{shard}.parquet")
        write_table(rollouts[-1], _rollouts(ids, sizes, rng), ROLLOUTS)
        teacher.append(folder / f"teacher-{shard}.parquet")
        write_table(teacher[-1], _teacher(ids, sizes, rng), TEACHER)
    kept = np.sort(rng.permutation(sizes.tokens)[: int(KEEP * sizes.tokens)])
    columns = {
        "rollout": kept // sizes.response,
        "position": (kept % sizes.response).astype(np.int32),
        "weight": np.ones(len(kept), np.float32),
        "loss": pa.nulls(len(kept)),
        "type": ["Q1"] * len(kept),
        "importance": np.ones(len(kept)),
    }
    selection = folder / "selection.parquet"
    write_table(selection, pa.table(columns).cast(schema(SELECTION)), SELECTION)
    return rollouts, teacher, selection


def _rollouts(ids: np.ndarray, sizes: Sizes, rng: np.random.Generator) -> pa.Table:
    rows, response = sizes.rows, sizes.response
    each = np.full(rows, response)
    top = rng.integers(0, sizes.vocabulary, (rows, response)).astype(np.int32)  # one id a token
    ones = Ragged(np.ones(rows * response, np.int32), each)
    columns = {
        "rollout": ids,
        "prompt_hash": [f"{row}" for row in ids],
        "sample": np.zeros(rows, np.int32),
        "prompt_ids": list(rng.integers(0, sizes.vocabulary, (rows, sizes.prompt))),
        "response_ids": Ragged(top.ravel(), each).lists(pa.int32()),
        "trainable": ones.lists(pa.bool_()),
        "logprobs": ones.lists(pa.float32()),
        "top_ids": Ragged(top.ravel(), each).lists(pa.int32()),
        "top_counts": ones.lists(pa.int32()),
        "stop_reason": ["length"] * rows,
        "reward": pa.nulls(rows, pa.float32()),
    }
    return pa.table(columns, schema=schema(ROLLOUTS))


def _teacher(ids: np.ndarray, sizes: Sizes, rng: np.random.Generator) -> pa.Table:
    n = sizes.rows * sizes.response
    each = np.full(n, ENTRIES)
    steps = rng.integers(1, sizes.vocabulary // ENTRIES, (n, ENTRIES))  # ids rise within a support
    columns = {
        "rollout": np.repeat(ids, sizes.response),
        "position": np.tile(np.arange(sizes.response, dtype=np.int32), sizes.rows),
        "ids": Ragged(steps.cumsum(1).astype(np.int32).ravel(), each).lists(pa.int32()),
        "logprobs": Ragged(rng.uniform(-15, -5, n * ENTRIES).astype(np.float16), each).lists(
            pa.float16()
        ),
        "tail": rng.uniform(-9, -1, n).astype(np.float32),
        "entropy": np.ones(n, np.float32),
    }
    return pa.table(columns, schema=schema(TEACHER))
