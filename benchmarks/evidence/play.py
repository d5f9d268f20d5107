"""What docs/RESULTS.md rests on: comparisons, a part each, seed after seed.

    python benchmarks/evidence/play.py PART [--models models] [--data DIR] [--seeds 5]

A part is one `tip compare`, asked for one seed, then two, and so on: what was played is found
again, so it may be stopped at any time and started again, and after each seed its page is written
to `docs/results/PART.md`. Parts that begin with `mini` play the built-in pair, all others SmolLM2
on GSM8K (`gsm8k_train.jsonl` and `gsm8k_test.jsonl` in DIR, with `problem` and `answer`).
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import students

HERE = Path(__file__).parent
RULES = "random,soft_or,entropy_top,divergence,q3,dial,ier"
NEW = (
    "random,soft_or,entropy_top,divergence,q3,dial,ier,ier_fused,aopd,power,excess_loss_bottom,"
    "excess_loss_ends,sdar,iw_opd,overlap,kat,eopd"
)


@dataclass(frozen=True)
class Part:
    """A comparison: its student (none: the built-in pair) and what `tip compare` is told."""

    student: str | None
    options: tuple[str, ...]

    @staticmethod
    def of(student: str | None, text: str, *vary: str) -> "Part":
        """Return a part; each of `vary` is an option of its own, for it may hold spaces."""
        varied = [word for each in vary for word in ("--vary", each)]
        return Part(student, (*text.split(), *varied))


REAL = "--metric reverse_kl,forward_kl,agreement"
TAILS = "train.tail=true,false,residual"
PARTS = {
    "half": Part.of("smollm2-half", f"{REAL} --lr 1 --keep 0.2 --rules {RULES}"),
    "half-tails": Part.of("smollm2-half", f"{REAL} --lr 1 --keep 0.2 --rules all", TAILS),
    "half-residual": Part.of(
        "smollm2-half",
        f"{REAL} --lr 1 --keep 0.2 --rules random,soft_or,divergence,q3,ier,entropy_top "
        "--set train.tail=residual",
    ),
    "half-budget": Part.of(
        "smollm2-half",
        f"{REAL} --lr 1 --keep 0.5 --rules random,soft_or,entropy_top --set train.tail=residual",
    ),
    "half-passes": Part.of(
        "smollm2-half",
        f"{REAL} --lr 1 --rules all --set train.tail=residual",
        "train.epochs=1,2,4",
    ),
    "half-bf16": Part.of(
        "smollm2-half",
        f"{REAL} --lr 1 --keep 0.2 --rules all,entropy_top --set train.tail=residual",
        "student.dtype=float32 teacher.dtype=float32,student.dtype=bfloat16 teacher.dtype=bfloat16",
    ),
    "half-rates": Part.of("smollm2-half", f"{REAL} --lr 0.3,1,3 --keep 0.2 --rules {RULES}"),
    "noise": Part.of("smollm2-noise", f"{REAL} --lr 1 --keep 0.2 --rules {RULES}"),
    "noise-tails": Part.of("smollm2-noise", f"{REAL} --lr 1 --keep 0.2 --rules all", TAILS),
    "24": Part.of("smollm2-24", f"{REAL} --lr 1 --keep 0.2 --rules {RULES}"),
    "24-tails": Part.of("smollm2-24", f"{REAL} --lr 1 --keep 0.2 --rules all", TAILS),
    "mini-rules": Part.of(None, f"--lr 1 --keep 0.2,0.1,0.05 --rules {NEW}"),
    "mini-one": Part.of(
        None,
        "--lr 1 --count 1 --rules low_logprob,excess_loss,excess_loss_bottom,dial,ier,divergence",
    ),
    "mini-rates": Part.of(
        None, "--lr 0.3,1,3 --keep 0.1 --rules random,soft_or,divergence,dial,ier"
    ),
    "mini-passes": Part.of(None, "--lr 1 --rules all", "train.epochs=1,2,4,8"),
    "mini-refresh": Part.of(
        None,
        "--lr 1 --rules all",
        "rounds=40 train.epochs=1,rounds=20 train.epochs=2,rounds=10 train.epochs=4,"
        "rounds=5 train.epochs=8,rounds=1 rollout.prompts=1280 train.epochs=4",
    ),
    "mini-lora": Part.of(
        None,
        "--lr 1 --rules all",
        "train.optimizer=adamw,train.optimizer=adamw8bit,"
        "train.lora.rank=32 train.lr=1e-3,train.lora.rank=32 train.lr=3e-3,"
        "train.lora.rank=8 train.lr=3e-3,train.lora.rank=8 train.lr=1e-2",
    ),
    "mini-tails": Part.of(
        None,
        "--lr 1 --rules all",
        TAILS,
        "rollout.student_top_max=4 score.teacher_top_max=4,"
        "rollout.student_top_max=16 score.teacher_top_max=16,"
        "rollout.student_top_max=64 score.teacher_top_max=64",
    ),
}


def main() -> None:
    """Play a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="SmolLM2 (`make models`)"
    )
    parser.add_argument("--data", type=Path, default=Path(), help="folder with GSM8K")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a core each")
    parser.add_argument("--folder", type=Path, default=Path("evidence"), help="store and runs")
    options = parser.parse_args()
    part = PARTS[options.part]
    if part.student not in (None, "smollm2-half"):
        students.write(options.models)
    told = prepared(part, options)
    for seeds in range(1, options.seeds + 1):
        output = options.folder / options.part
        command = ["compare", *told, *part.options, "--name", options.part, "--seeds", str(seeds)]
        tip(*command, "--workers", str(options.workers), "--output", str(output))
        publish(output / "comparison.md", options.part)


def prepared(part: Part, options: argparse.Namespace) -> list[str]:
    """Return the config of a part and what it is told of places."""
    folder = options.folder
    if part.student is None:
        if not (folder / "demo" / "all.toml").is_file():
            tip("demo", "--folder", str(folder / "demo"))
        return [str(folder / "demo" / "all.toml"), "--set", "evaluate.every=0"]
    places = {
        "student.model": options.models / part.student,
        "teacher.model": options.models / "smollm2-135m",
        "prompts.source": options.data / "gsm8k_train.jsonl",
        "evaluate.source": options.data / "gsm8k_test.jsonl",
        "store": folder / "store",
        "runs": folder / "runs",
    }
    sets = [word for key, path in places.items() for word in ("--set", f'{key}="{path}"')]
    return [str(HERE / "real.toml"), *sets]


def tip(*arguments: str) -> None:
    """Run a command of tip; end where it fails."""
    program = "import sys; from tip.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def publish(page: Path, part: str) -> None:
    """Copy a page to where docs/RESULTS.md finds it."""
    shown = HERE.parents[1] / "docs" / "results" / f"{part}.md"
    shown.parent.mkdir(exist_ok=True)
    text = page.read_text(encoding="utf-8")
    shown.write_text(text.replace("# Comparison", f"# {part}", 1), encoding="utf-8")
    print(f"{shown} is written", flush=True)


if __name__ == "__main__":
    main()
