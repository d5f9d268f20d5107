"""The stored teacher signal: what of the dense loss it keeps, and what it costs on disk.

    python benchmarks/payload.py MODELS [--problems FILE] [--student FOLDER] [--grid] [--out bench]

Teacher SmolLM2-135M, student half of it, float32, rollouts sampled at temperature 1.

Quality: for the untrained and a trained student, supports of student top-p x maximum x teacher
top-p x maximum against the dense reverse KL over the whole vocabulary (float64): entries and bytes
a token, the share of the KL kept, the cosine of the gradients, the rank correlation of tokens.
`--grid` takes every combination, not only one change of the default at a time.

Bytes: the trained student's tokens with a fixed teacher top-64 and with the default support,
written by `storage/tables.py`; then each way to write ids and log-probs, against their entropy.

The student is trained here by the pipeline, a few rounds on all tokens, or is that of `--student`.
Problems are made here, or are those of a JSONL file with a column `problem`; every other row is
trained on, the rest is measured on.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from arguments import models_folder
from pair import load
from payload_encodings import cost, ideal, schemes, written_bytes
from payload_supports import (
    DEFAULT,
    TEACHER_64,
    Quality,
    grid,
    qualities,
    short_grid,
    signal_tables,
)
from timing import line, save
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.models.language_model import LanguageModel
from tip.stages.prompts.render import render_prompts
from tip.stages.prompts.settings import TextSettings
from tip.stages.rollout.rollout import roll_out, sampling_of
from tip.stages.rollout.settings import RolloutSettings
from tip.stages.score.shard import RolloutArrays, read_rollouts
from tip.storage.sources.rows import read_rows

ROUNDS, ROUND_PROMPTS, ROUND_LENGTH = 2, 32, 32
JUDGED, LONG = (16, 32), (32, 64)  # rollouts x tokens for the quality and for the bytes
THINGS = ("apples", "coins", "books", "letters", "stones", "chairs", "tickets", "marbles")
STORIES = (
    "Ann has {a} {thing} and gives {b} away. Then she buys {c} more. How many {thing} has she now?",
    "A box holds {a} {thing}. There are {b} full boxes and {c} loose {thing}. How many in all?",
    "Tom sells {a} {thing} for {b} dollars each and spends {c} dollars. What is left of his money?",
    "{a} children share {b} {thing} and {c} of the children leave theirs. How many {thing} remain?",
)


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=models_folder, help="folder with the pair (`make models`)")
    parser.add_argument("--problems", type=Path, help="JSONL with a column `problem`")
    parser.add_argument("--student", type=Path, help="a trained student; else it is trained here")
    parser.add_argument("--grid", action="store_true", help="every combination of settings")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    choices = grid() if options.grid else short_grid()
    lines = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_problems(options.problems, folder)
        teacher = load(options.models / "smollm2-135m")
        first = options.models / "smollm2-half"
        trained = options.student or train(options.models, folder)
        for who, path in (("untrained", first), ("trained", trained)):
            student = load(path)
            shard = rollouts(student, folder, *JUDGED)
            found, dense = qualities(student, teacher, shard, choices)
            lines += quality_lines(who, found, dense, folder)
        shard = rollouts(student, folder, *LONG)
        tables = signal_tables(student, teacher, shard, [TEACHER_64, DEFAULT])
        supports = {"top-64": tables[0], "student-led": tables[1]}
        lines += written_lines(supports, folder)
        lines += scheme_lines(supports, folder)
    save("payload", lines, options.out)


def write_problems(source: Path | None, folder: Path) -> None:
    """Write train.jsonl and held_out.jsonl with a column `problem`."""
    if source is None:
        rng = np.random.default_rng(0)
        problems = [
            STORIES[i % len(STORIES)].format(
                **dict(zip("abc", rng.integers(2, 90, 3), strict=True)), thing=rng.choice(THINGS)
            )
            for i in range(400)
        ]
    else:
        problems = [row.fields["problem"] for row in read_rows(str(source), needed=["problem"])]
    for name, part in (("train", problems[::2]), ("held_out", problems[1::2])):
        text = "\n".join(json.dumps({"problem": p}) for p in part)
        (folder / f"{name}.jsonl").write_text(text)


def train(
    models: Path,
    folder: Path,
    rounds: int = ROUNDS,
    prompts: int = ROUND_PROMPTS,
    length: int = ROUND_LENGTH,
) -> Path:
    """Play some rounds of 16 steps on all tokens and return the folder of the last student."""
    values: dict[str, Any] = {
        "name": "payload",
        "rounds": rounds,
        "store": str(folder / "store"),
        "runs": str(folder / "runs"),
        "student": {"model": str(models / "smollm2-half")},
        "teacher": {"model": str(models / "smollm2-135m")},
        "prompts": {"source": str(folder / "train.jsonl"), "format": "{problem}"},
        "rollout": {"prompts": prompts, "max_tokens": length},
        "score": {"check_rows": 0},
        "select": {"keep": 1.0},
        "train": {"lr": 3e-4, "warmup_steps": 2, "batch_tokens": 1024}
        | {"rollouts_per_step": prompts // 16},
    }
    session = open_session(make_config(values, "payload"))
    play(session)
    checkpoint = session.student(rounds).checkpoint
    assert checkpoint is not None  # it has been trained
    return session.store.folder(checkpoint)


def rollouts(student: LanguageModel, folder: Path, count: int, length: int) -> RolloutArrays:
    """Return rollouts of held-out problems, sampled by the student itself."""
    return read_rollouts(rollouts_of(student, folder, count, length), None)


def rollouts_of(student: LanguageModel, folder: Path, count: int, length: int) -> pa.Table:
    """Return the `rollouts` table of held-out problems."""
    text = TextSettings(source="", format="{problem}")
    rows = read_rows(str(folder / "held_out.jsonl"), limit=count, needed=["problem"])
    prompts, _ = render_prompts(rows, text, student.card.tokenizer)
    settings = RolloutSettings(max_tokens=length)
    engine = LocalEngine(student, settings.batch_size)
    terms = sampling_of(settings, student.card.stop_ids, seed=0)
    return roll_out(engine, prompts, 1, terms)


def quality_lines(
    who: str, found: list[Quality], dense: float, folder: Path
) -> list[dict[str, object]]:
    """Return a line a choice, and print them as a table."""
    lines, rows = [], []
    for q in found:
        columns, _ = written_bytes(q.table, folder)
        size = sum(columns.values()) / len(q.table)
        name = f"{q.choice.label}{' (default)' if q.choice == DEFAULT else ''}"
        lines.append(
            line(
                f"{who}: {name}",
                q.entries,
                "entries",
                "the dense gradient (cosine, logits)",
                q.logits,
            )
            | {"dense_reverse_kl": dense, "kept": q.kept, "cosine_logits": q.logits}
            | {"cosine_hidden": q.hidden, "rank": q.rank, "bytes": size}
        )
        rows.append(
            f"| {name} | {q.entries:.1f} | {size:.0f} | {q.kept:.1%} | {q.logits:.4f} | "
            f"{q.hidden:.4f} | {q.rank:.4f} |"
        )
    print(f"\n{who} student, {len(found[0].table):,} tokens, dense reverse KL {dense:.3f} nats\n")
    print("| support | entries | bytes | KL kept | cosine, logits | cosine, states | rank |")
    print("|---|---|---|---|---|---|---|", *rows, "", sep="\n")
    return lines


def written_lines(supports: dict[str, pa.Table], folder: Path) -> list[dict[str, object]]:
    """Return what the project's writer makes of each support, column by column."""
    lines = []
    for name, table in supports.items():
        columns, total = written_bytes(table, folder)
        entries = len(table["ids"].combine_chunks().values)
        each = sum(columns.values()) / entries
        lines.append(
            line(
                f"as written, {name}: {entries / len(table):.1f} entries a token",
                each,
                "bytes",
                "an entry, all columns",
                each / 2.8 if name == "top-64" else None,
                "<= 2.8 bytes" if name == "top-64" else "",
            )
            | {"tokens": len(table), "bytes_a_token": each * entries / len(table)}
            | {f"{c}_bytes_an_entry": size / entries for c, size in columns.items()}
            | {"file_bytes": total}
        )
        parts = ", ".join(f"{c} {size / len(table):.1f}" for c, size in columns.items())
        print(f"    {len(table):,} tokens; bytes a token: {parts}", flush=True)
    return lines


def scheme_lines(supports: dict[str, pa.Table], folder: Path) -> list[dict[str, object]]:
    """Return what each scheme costs on each support, and print them as a table."""
    lines, rows = [], []
    for scheme in schemes():
        costs = {name: cost(scheme, table, folder) for name, table in supports.items()}
        first = costs["top-64"]
        lines.append(
            {"what": f"{scheme.column}: {scheme.name}", "readers": first.readers}
            | {f"{name} bytes": c.size for name, c in costs.items()}
            | {"write_million_entries": first.write, "read_million_entries": first.read}
        )
        sizes = " | ".join(f"{c.size:.3f}" for c in costs.values())
        rows.append(
            f"| {scheme.column} | {scheme.name} | {sizes} | {first.write:.0f} | {first.read:.0f} | "
            f"{first.readers} |"
        )
    bounds = {name: ideal(table) for name, table in supports.items()}
    for what in bounds["top-64"]:
        sizes = [bound[what] for bound in bounds.values()]
        lines.append({"what": f"entropy: {what}"} | dict(zip(supports, sizes, strict=True)))
        rows.append(f"| entropy | {what} | {sizes[0]:.3f} | {sizes[1]:.3f} | | | |")
    heads = " | ".join(f"{name}, B/entry" for name in supports)
    print(f"\n| column | written as | {heads} | write M/s | read M/s | read by |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")
    return lines


if __name__ == "__main__":
    main()
