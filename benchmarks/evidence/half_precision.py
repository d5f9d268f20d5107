"""How many of the chosen tokens change where both models score in bfloat16 and not in float32.

    python benchmarks/evidence/half_precision.py RUN [--runs evidence/runs] [--rounds 1,3]

The rollouts of a finished run are scored again, by the same student and teacher, in bfloat16, and
every rule that ranks by scores chooses among both tables. Nothing is written to the store. Prints
what single tokens differ by, and of each rule and budget the share of its tokens that both choose.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from tip.pipeline.config.toml import config_of
from tip.pipeline.rounds.replay import stored
from tip.pipeline.session import Session, look_at
from tip.stages.holder import Holder
from tip.stages.models.cpu.process import set_up
from tip.stages.models.merged import folder_of
from tip.stages.score.joint import score_joint
from tip.stages.select.rulebook import Rule, builtin_rules
from tip.stages.select.select import select
from tip.stages.select.settings import SelectSettings
from tip.storage.columns import TOKENS
from tip.storage.runs import RoundPointers, RunView
from tip.storage.tables import read_table, write_table

BUDGETS = (0.2, 0.1)
NUMBERS = ("student_entropy", "teacher_entropy", "reverse_kl", "forward_kl")


def main() -> None:
    """Score the rounds again and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--runs", type=Path, default=Path("evidence/runs"))
    parser.add_argument("--rounds", default="1,3", help="numbers of rounds, with commas")
    options = parser.parse_args()
    session = look_at(config_of(RunView(options.runs, options.run)))
    config = session.config
    attention = set_up(session.device, config.threads, config.cpu)
    holder = Holder(
        session.device,
        at_once=2,
        folder_of=partial(folder_of, session.store, print),
        attention=attention,
        say=print,
    )
    for number in map(int, options.rounds.split(",")):
        compare(session, holder, number)
    holder.close()


def compare(session: Session, holder: Holder, number: int) -> None:
    """Print what a round's scores in bfloat16 change."""
    pointers = session.run.round(number) or RoundPointers()
    rollouts = stored(session, "rollouts", pointers.rollouts or ())
    kept = stored(session, "tokens", pointers.tokens or ())
    texts = [session.store.path(a, "rollouts") for a in rollouts]
    student, teacher = (
        holder.model(replace(weights, dtype="bfloat16"))
        for weights in (
            session.student(number),
            session.inputs.teacher(session.config.score.engine),
        )
    )
    settings = session.config.score
    ours = read_table([session.store.path(a, "tokens") for a in kept])
    theirs = pa.concat_tables(
        [score_joint(student, teacher, read_table([text]), settings)[1] for text in texts]
    )
    print(f"\nround {number}: {len(ours):,} tokens\n")
    told(ours, theirs)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{name}.parquet") for name in ("float32", "bfloat16")]
        for path, table in zip(paths, (ours, theirs), strict=True):
            write_table(path, table, TOKENS)
        vocabulary = student.vocabulary
        print("\n| rule | " + " | ".join(f"both choose, of {b:.0%}" for b in BUDGETS) + " |")
        print("|---|" + "---|" * len(BUDGETS))
        for name, rule in builtin_rules().items():
            if not ranks(rule):
                continue
            shares = [shared(name, budget, paths, texts, vocabulary) for budget in BUDGETS]
            if any(share is not None for share in shares):  # else it found no token of its kind
                cells = ("" if share is None else f"{share:.1%}" for share in shares)
                print(f"| {name} | " + " | ".join(cells) + " |")


def ranks(rule: Rule) -> bool:
    """Tell whether a rule chooses by scores, and by a budget."""
    return rule.needs != "nothing" and rule.keep is None


def told(ours: pa.Table, theirs: pa.Table) -> None:
    """Print what single tokens differ by."""
    print("| number | mean | mean difference | 99th percentile | largest |\n|---|---|---|---|---|")
    for name in NUMBERS:
        one, other = (table[name].to_numpy().astype(float) for table in (ours, theirs))
        gap = np.abs(one - other)
        print(
            f"| {name} | {one.mean():.3f} | {gap.mean():.3f} | {np.quantile(gap, 0.99):.3f} | "
            f"{gap.max():.3f} |"
        )


def shared(
    rule: str, keep: float, tokens: list[Path], rollouts: list[Path], vocabulary: int
) -> float | None:
    """Return the share of a rule's tokens that it chooses of both tables, None where of neither."""
    settings = SelectSettings(rule=rule, keep=keep)
    chosen = []
    for path in tokens:
        table, _ = select([path], rollouts, settings, seed=0, vocabulary=vocabulary)
        chosen.append(
            set(zip(*(table[n].to_pylist() for n in ("rollout", "position")), strict=True))
        )
    return len(chosen[0] & chosen[1]) / len(chosen[0]) if chosen[0] else None


if __name__ == "__main__":
    main()
