"""Selection of Soft-OR at 20 % from 1 M, 10 M and 100 M tokens, against a bare scan.

    python benchmarks/selection.py [--rows 100000000]

The tables are written by the project's own writer, cut into shards of 32 prompts with 16 ragged
samples each, as in the examples. Numbers are random with heavy mass near 0; a third of all tokens
has entropy and divergence of exactly 0, and in some rollouts nearly all do, so thresholds fall on
ties. Four shards are generated and repeated under other rollout ids. What selection never reads is
left out: the lists of the rollout tables are empty.

`select` runs as in a round, every time in a process of its own; so does the bare scan, which sums
the five columns that the rule needs, by the same engine with the same threads and memory, and
orders, ranks and writes nothing. A second baseline, on a tenth of the rows: pyarrow and numpy, the
whole table in memory, one argsort a rollout, without ties, types or weights. Files are in the page
cache. Needs 3.5 GB of disk in TMPDIR for 100 M tokens.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apart import apart, peak_mb
from timing import line, save
from tip.stages.select.select import select
from tip.stages.select.settings import SelectSettings
from tip.storage.columns import ROLLOUTS, TOKENS
from tip.storage.queries import add_view, locked_connection, one_row
from tip.storage.tables import write_table

PROMPTS, SAMPLES, LONGEST, VOCABULARY, BODIES = 32, 16, 8192, 151_936, 4
LEAST = 10_000_000
KEEP = 0.2
SETTINGS = SelectSettings(rule="soft_or", keep=KEEP)
NEEDED = ["rollout", "position", "trainable", "student_entropy", "reverse_kl"]


class Measured(NamedTuple):
    """One piece of work in its process: seconds without the start, peak memory, kept tokens."""

    seconds: float
    peak_mb: float
    kept: int


class Body(NamedTuple):
    """All of a shard but its rollout ids. lengths: [R] tokens a rollout."""

    lengths: np.ndarray
    columns: dict[str, pa.Array]


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", help="not used; `make bench` gives it to all")
    parser.add_argument("--rows", type=int, default=100_000_000, help="tokens of the largest table")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    if options.rows < LEAST:
        parser.error(f"--rows {options.rows}: at least {LEAST:,}, so that a hundredth is a shard")
    with TemporaryDirectory(prefix="tip-selection-") as folder:
        tokens = np.cumsum(write_shards(Path(folder), options.rows))
        lines = measure(Path(folder), tokens, options.rows)
    save("selection", lines, options.out)


def measure(folder: Path, tokens: np.ndarray, rows: int) -> list[dict[str, object]]:
    """Return the lines. tokens: [shards] tokens up to and with each shard."""
    lines, sizes, selected = [], [], []
    for part in (100, 10, 1):
        shards = int(np.searchsorted(tokens, rows / part)) + 1
        size = int(tokens[shards - 1])
        works: dict[str, Callable[..., Measured]] = {"scan": scan, "select": run_select}
        if part == 10:
            works["numpy"] = argsort
        found = fastest(works, folder, shards, turns=1 if part == 1 else 3)
        lines += speeds(size, found, "" if part > 1 else ">= 4,000,000")
        sizes.append(size)
        selected.append(found["select"])
    for i, j in ((0, 1), (1, 2)):
        ratio = selected[j].seconds / selected[i].seconds
        more = sizes[j] / sizes[i]
        lines.append(
            line(
                f"exponent of the time, {millions(sizes[i])} to {millions(sizes[j])} tokens",
                math.log(ratio) / math.log(more),
                "",
                f"seconds a token at {millions(sizes[i])}",
                ratio / more,
                "1: linear",
            )
        )
    lines.append(
        line(
            f"peak memory of selecting from {millions(sizes[-1])} tokens",
            selected[-1].peak_mb,
            "MB",
            f"bare scan {found['scan'].peak_mb:,.0f} MB",
            selected[-1].peak_mb / found["scan"].peak_mb,
            "< 2,000",
        )
    )
    return lines


def speeds(size: int, found: dict[str, Measured], target: str) -> list[dict[str, object]]:
    """Return the lines of one size; each ratio is of speeds."""
    mine, scanned = found["select"], found["scan"]
    lines = [
        line(
            f"select, {millions(size)} tokens, {mine.seconds:.2f} s",
            size / mine.seconds,
            "tokens/s",
            f"bare scan {size / scanned.seconds:,.0f} tokens/s",
            scanned.seconds / mine.seconds,
            target,
        )
    ]
    if plain := found.get("numpy"):
        lines.append(
            line(
                f"select against numpy's argsort, {millions(size)} tokens",
                size / mine.seconds,
                "tokens/s",
                f"numpy {size / plain.seconds:,.0f} tokens/s in {plain.peak_mb:,.0f} MB",
                plain.seconds / mine.seconds,
            )
        )
        if plain.kept != mine.kept:
            raise ValueError(f"numpy keeps {plain.kept} tokens and select {mine.kept}")
    return lines


def fastest(
    works: dict[str, Callable[..., Measured]], folder: Path, shards: int, *, turns: int
) -> dict[str, Measured]:
    """Return each work's fastest turn, every turn in a process of its own."""
    found = [
        {name: apart(work, folder, shards) for name, work in works.items()} for _ in range(turns)
    ]
    return {name: min(turn[name] for turn in found) for name in works}


def run_select(folder: Path, shards: int) -> Measured:
    """Select, as a round does."""
    start = time.perf_counter()
    table, _ = select(
        paths(folder, "tokens", shards),
        paths(folder, "rollouts", shards),
        SETTINGS,
        seed=0,
        vocabulary=VOCABULARY,
    )
    return Measured(time.perf_counter() - start, peak_mb(), table.num_rows)


def scan(folder: Path, shards: int) -> Measured:
    """Sum the columns that the rule needs, and nothing else."""
    start = time.perf_counter()
    parts = paths(folder, "tokens", shards)
    with locked_connection(parts, memory_gb=SETTINGS.memory_gb) as connection:
        add_view(connection, "tokens", parts)
        sums = ", ".join(f"sum({name}::DOUBLE)" for name in NEEDED)
        one_row(connection, f"SELECT {sums} FROM tokens")
    return Measured(time.perf_counter() - start, peak_mb(), 0)


def argsort(folder: Path, shards: int) -> Measured:
    """Select with numpy, the whole table in memory; ties fall as argsort puts them."""
    start = time.perf_counter()
    table = pq.read_table([str(p) for p in paths(folder, "tokens", shards)], columns=NEEDED)
    table = table.filter(table["trainable"])
    rollout, position = table["rollout"].to_numpy(), table["position"].to_numpy()
    entropy, kl = (np.maximum(table[n].to_numpy().astype(np.float64), 0) for n in NEEDED[3:])
    h = unit(entropy, np.quantile(entropy, 0.98))
    d = unit(kl, kl.max())
    importance = h + d - h * d
    ends = np.append(np.flatnonzero(np.diff(rollout)) + 1, len(rollout))
    kept, begin = [], 0
    for end in ends:
        k = max(1, math.floor(KEEP * (end - begin) + 1e-9))
        kept.append(begin + np.argsort(-importance[begin:end])[:k])
        begin = end
    rows = np.concatenate(kept)
    rows = rows[np.lexsort((position[rows], rollout[rows]))]
    answer = pa.table(
        {"rollout": rollout[rows], "position": position[rows], "importance": importance[rows]}
    )
    return Measured(time.perf_counter() - start, peak_mb(), answer.num_rows)


def unit(values: np.ndarray, high: float) -> np.ndarray:
    """Bring values to [0, 1], clipped at `high`."""
    low = values.min()
    return np.clip((values - low) / (high - low), 0, 1)


def write_shards(folder: Path, rows: int) -> list[int]:
    """Write shards until there are that many tokens; return the tokens of each."""
    bodies = [body(seed) for seed in range(BODIES)]
    sizes: list[int] = []
    while sum(sizes) < rows:
        sizes.append(int(bodies[len(sizes) % BODIES].lengths.sum()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda n: write_shard(folder, n, bodies[n % BODIES]), range(len(sizes))))
    return sizes


def write_shard(folder: Path, number: int, body: Body) -> None:
    """Write the two tables of a shard; the rollouts' ids are random, as hashes are."""
    n = PROMPTS * SAMPLES
    ids = np.random.default_rng([1, number]).integers(0, 1 << 63, n, dtype=np.int64)
    tokens = pa.table({"rollout": np.repeat(ids, body.lengths), **body.columns})
    write_table(folder / f"{number}.tokens.parquet", tokens, TOKENS)
    lists = ("prompt_ids", "response_ids", "trainable", "logprobs", "top_ids", "top_counts")
    rollouts = pa.table(
        {
            "rollout": ids,
            "prompt_hash": [f"{number:08x}{place // SAMPLES:08x}" for place in range(n)],
            "sample": np.arange(n) % SAMPLES,
            "stop_reason": ["stop"] * n,
            "reward": np.zeros(n),
            **{name: pa.array([[]] * n) for name in lists},
        }
    )
    write_table(folder / f"{number}.rollouts.parquet", rollouts, ROLLOUTS)


def body(seed: int) -> Body:
    """Return the columns of a shard but `rollout`: numbers as models give them, roughly."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(6.6, 0.7, PROMPTS * SAMPLES).clip(8, LONGEST).astype(np.int64)
    n = int(lengths.sum())
    share = np.where(rng.random(len(lengths)) < 0.05, 0.95, 0.3)  # of tokens that are certain
    unsure = rng.random(n) >= np.repeat(share, lengths)
    kl = unsure * (rng.gamma(0.2, 0.5, n) - 1e-4)  # half precision gives values below 0
    numbers = {
        "student_entropy": unsure * rng.gamma(0.3, 1.0, n),
        "teacher_entropy": unsure * rng.gamma(0.3, 0.8, n),
        "reverse_kl": kl,
        "forward_kl": kl * 1.1,
        "jsd": kl / 4,
        "hellinger": np.sqrt(np.maximum(kl, 0)).clip(max=1),
        "student_logprob": unsure * -rng.gamma(0.4, 1.0, n),
        "teacher_logprob": unsure * -rng.gamma(0.4, 1.0, n),
        "student_mass": 1 - rng.random(n) / 20,
        "teacher_mass": 1 - rng.random(n) / 20,
        "teacher_mass_top": 1 - rng.random(n) / 10,
        "overlap": rng.integers(0, 17, n) / 16,
        "signal_to_noise": rng.gamma(0.3, 1.0, n),
        "drift": rng.normal(0, 1e-3, n),
    }
    columns = {
        "position": np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        "token": rng.zipf(1.2, n).clip(max=VOCABULARY - 1).astype(np.int32),
        "trainable": np.ones(n, np.bool_),
        "special": rng.random(n) < 0.001,
        "teacher_rank": (rng.geometric(0.8, n) - 1).astype(np.int32),
        **{name: values.astype(np.float32) for name, values in numbers.items()},
    }
    return Body(lengths, {name: pa.array(values) for name, values in columns.items()})


def paths(folder: Path, kind: str, shards: int) -> list[Path]:
    """Return the files of the first shards."""
    return [folder / f"{number}.{kind}.parquet" for number in range(shards)]


def millions(tokens: int) -> str:
    """Return a count of tokens, shortened."""
    return f"{tokens / 1e6:,.1f} M"


if __name__ == "__main__":
    main()
