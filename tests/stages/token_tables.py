"""Token tables for the tests of selection: random ones, and ones made to hurt."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tip.storage.columns import ROLLOUTS, TOKENS, Column, schema

VOCABULARY = 1000


def token_table(seed: int, lengths: list[int], *, round_to: int | None = None) -> pa.Table:
    """Return a table of random tokens; round_to: decimals, few of them make ties."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    ids = rng.integers(1, 2**63 - 1, len(lengths), dtype=np.int64)
    entropy, kl = rng.gamma(0.4, 1.0, (2, n)), rng.gamma(0.3, 1.0, (3, n))
    numbers = {
        "student_entropy": entropy[0],
        "teacher_entropy": entropy[1],
        "reverse_kl": kl[0] - 1e-4,  # some are slightly negative, as half precision makes them
        "forward_kl": kl[1] - 1e-4,
        "jsd": kl[2] / 4,
        "hellinger": rng.random(n),
        "student_logprob": -rng.gamma(0.4, 1.0, n),
        "teacher_logprob": -rng.gamma(0.4, 1.0, n),
        "student_mass": 1 - rng.random(n) / 20,
        "teacher_mass": 1 - rng.random(n) / 20,
        "teacher_mass_top": 1 - rng.random(n) / 10,
    }
    columns: dict[str, Any] = {
        "rollout": np.repeat(ids, lengths),
        "position": np.concatenate([np.arange(length) for length in lengths] or [np.empty(0)]),
        "token": rng.integers(0, VOCABULARY, n),
        "trainable": rng.random(n) < 0.9,
        "special": rng.random(n) < 0.05,
        "teacher_rank": rng.integers(0, 50, n),
        **{name: _rounded(values, round_to) for name, values in numbers.items()},
    }
    late = {
        "overlap": rng.integers(0, 17, n) / 16,
        "signal_to_noise": rng.gamma(0.3, 1.0, n),
        "drift": rng.normal(0, 0.1, n),
    }
    columns |= {name: _rounded(values, round_to) for name, values in late.items()}
    return _table(columns, TOKENS)


def changed(table: pa.Table, **values: Any) -> pa.Table:
    """Return the table with other values in some columns; a single value fills the column."""
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        of_type = table.schema.field(name).type
        filled = np.broadcast_to(np.asarray(value), table.num_rows)
        table = table.set_column(place, table.schema.field(name), pa.array(filled).cast(of_type))
    return table


def mixed_table() -> pa.Table:
    """Ties everywhere, single-token rollouts, untrainable tokens, rollouts with nothing else."""
    table = token_table(1, [1, 1, 2, 3, 40, 130, 7, 64, 1, 25, 90], round_to=1)
    ids = table["rollout"].to_numpy()
    untrainable = np.isin(ids, [ids[0], ids[4]])  # the first rollout, and the one of two tokens
    return changed(table, trainable=table["trainable"].to_numpy() & ~untrainable)


def constant_table() -> pa.Table:
    """Every range is empty: all importances are equal, reverse KL too."""
    table = token_table(2, [30, 1, 50], round_to=1)
    names = [f.name for f in table.schema if pa.types.is_floating(f.type)]
    return changed(table, **dict.fromkeys(names, 0.25))


def outlier_table() -> pa.Table:
    """One token is far from all others on every axis."""
    table = token_table(3, [60, 45, 80])
    position, values = 17, {}
    for name, value in (("student_entropy", 6.5), ("reverse_kl", 1e6), ("forward_kl", 1e6)):
        column = table[name].to_numpy().copy()
        column[position] = value
        values[name] = column
    return changed(table, **values)


def zero_table() -> pa.Table:
    """Most tokens have entropy 0 exactly, so a sampled rule runs out of positive ones."""
    table = token_table(4, [20, 33, 8])
    entropy = table["student_entropy"].to_numpy().copy()
    entropy[np.arange(len(entropy)) % 9 != 0] = 0
    return changed(table, student_entropy=entropy, reverse_kl=np.round(entropy, 1))


def rollout_table(tokens: pa.Table, rewards: list[float | None] | None = None) -> pa.Table:
    """Return the rollouts of a token table, two samples a prompt."""
    ids, counts = np.unique(tokens["rollout"].to_numpy(), return_counts=True)
    trainable = [[True] * int(n) for n in counts]
    zeros = [[0] * int(n) for n in counts]
    columns = {
        "rollout": ids,
        "prompt_hash": [f"{i // 2:016x}" for i in range(len(ids))],
        "sample": [i % 2 for i in range(len(ids))],
        "prompt_ids": [[5, 6, 7]] * len(ids),
        "response_ids": zeros,
        "trainable": trainable,
        "logprobs": [[0.0] * int(n) for n in counts],
        "top_ids": zeros,
        "top_counts": [[1] * int(n) for n in counts],
        "stop_reason": ["stop"] * len(ids),
        "reward": rewards if rewards is not None else [None] * len(ids),
    }
    return _table(columns, ROLLOUTS)


def write_parts(folder: Path, table: pa.Table, parts: int = 1) -> list[Path]:
    """Write a table as Parquet parts of whole rollouts; the first one may be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = table["rollout"].to_numpy()
    place = np.searchsorted(np.unique(ids), ids) % parts
    paths = [folder / f"{number}.parquet" for number in range(parts)]
    for number, path in enumerate(paths):
        pq.write_table(table.filter(pa.array(place == number)), path)
    return paths


def _rounded(values: np.ndarray, decimals: int | None) -> np.ndarray:
    return values if decimals is None else np.round(values, decimals)


def _table(columns: dict[str, Any], declared: Iterable[Column]) -> pa.Table:
    wanted = schema(declared)
    arrays = [pa.array(list(columns[field.name]), field.type) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


TABLES = {
    "random": token_table(0, [200, 1, 77, 35]),
    "mixed": mixed_table(),
    "constant": constant_table(),
    "outlier": outlier_table(),
    "zero": zero_table(),
    "single": changed(token_table(5, [1]), trainable=True),
    "untrainable": changed(token_table(6, [5, 2]), trainable=False),
    "empty": token_table(7, []),
}
