"""The demo: four runs of the real pipeline over one store, and a table of what came of them.

Nothing is shortened: config files are written and read, stages run and commit, and all runs but
the first find its rollouts and teacher signals of round 0. The last one learns from each round's
rollouts and scores several times, for no teacher token more.
"""

import shutil
import sys
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from ...storage.runs import RunFolder
from ..config.toml import load_config
from ..metrics import EvaluateMetrics, by_round, costs
from ..progress import Reporter, Stopwatch
from ..rounds.play import play
from ..rounds.single import evaluate_teacher
from ..session import Session, open_session
from ..show.cells import count, number, percent, seconds, table
from .task import write_problem_files

PROBLEMS = 500  # held-out ones asked before and after: an interval of about 3 points at 85 %
PROMPTS = 20_000
DATA_SEED = 1

TEMPLATE = """\
# Written by `tip demo`. Try: tip run {path} --name mine --set select.rule=q3
rounds = {rounds}
store = "{folder}/store"
runs = "{folder}/runs"
# Models this small gain nothing from a second thread, and lose much where the cores are shared.
threads = 1

[student]
model = "{pair}/student"

[teacher]
model = "{pair}/teacher"

[prompts]
source = "{folder}/train.jsonl"
template = "raw"

[rollout]
prompts = 128
max_tokens = 64

[select]
rule = "{rule}"
keep = {keep}

[train]
lr = 3e-4
betas = [0.9, 0.98]
warmup_steps = 10
schedule = "linear"
min_lr_frac = 0.1
rollouts_per_step = 16
epochs = {passes}

[evaluate]
source = "{folder}/held_out.jsonl"
template = "raw"
temperature = 0
max_tokens = 64
batch_size = 512
verifier = "exact"
"""


@dataclass(frozen=True)
class Choice:
    """One of the runs that are compared."""

    name: str
    rule: str
    keep: float
    passes: int = 1
    """Over a round's scored rollouts."""

    @property
    def text(self) -> str:
        """Return what is trained on, and how often."""
        if self.passes > 1:
            return f"{self.rule}, {self.passes} passes"
        return f"{self.rule} {percent(self.keep, 0)}"


CHOICES = (
    Choice("all", "all", 1.0),
    Choice("soft-or", "soft_or", 0.2),
    Choice("random", "random", 0.2),
    Choice("passes", "all", 1.0, passes=4),
)


def show(folder: Path, rounds: int) -> None:
    """Play the demo into `folder` and print its table. Run again, it finds everything."""
    console, watch = Console(highlight=False), Stopwatch()
    write_problem_files(folder, seed=DATA_SEED, train=PROMPTS, held_out=PROBLEMS)
    console.print(
        "A student of 0.1 M parameters that forgets carries and subtracts the smaller digit\n"
        "from the larger learns from a teacher of 0.6 M parameters, on its own answers:\n"
        f"{len(CHOICES)} runs of {rounds} rounds over one store in {folder}/.",
        soft_wrap=True,
    )
    with as_file(files("tip.pipeline.demo") / "pair") as pair:
        sessions = [_play(folder, choice, rounds, pair, console) for choice in CHOICES]
        console.print("\nthe teacher on the same problems")
        teacher = evaluate_teacher(sessions[0])
    _print_table(sessions, teacher, console)
    path = folder / "soft-or.toml"
    tip = "tip" if shutil.which("tip") else sys.argv[0]  # as it can be typed here
    console.print(
        f"\n{watch.seconds:.0f} s in all. Next: another rule, for which round 0 is there already, "
        "and a question in SQL:\n"
        f"  {tip} run {path} --name q3 --set select.rule=q3 --set select.keep=0.1\n"
        f'  {tip} sql "SELECT text, count(*) n, avg(reverse_kl) kl FROM tokens GROUP BY text '
        f'ORDER BY kl DESC LIMIT 5" --run all --runs {folder}/runs --round 0',
        soft_wrap=True,
    )


def _play(folder: Path, choice: Choice, rounds: int, pair: Path, console: Console) -> Session:
    path = folder / f"{choice.name}.toml"
    path.write_text(config_text(path, choice, rounds, pair), encoding="utf-8")
    console.print(f"\n[bold]{choice.name}[/bold]: {choice.text}, {path}")
    session = open_session(load_config(path), Reporter())
    play(session)
    return session


def config_text(path: Path, choice: Choice, rounds: int, pair: Path) -> str:
    """Return the config of a run, whose store and runs lie beside it."""
    return TEMPLATE.format(
        path=path,
        folder=path.parent,
        pair=pair,
        rounds=rounds,
        rule=choice.rule,
        keep=choice.keep,
        passes=choice.passes,
    )


def _print_table(sessions: list[Session], teacher: EvaluateMetrics, console: Console) -> None:
    shown = table(
        ("who", "accuracy, 95 %", "trained", "scored", "reused", "B/token", "s"),
        "\nHeld-out problems answered right (greedy)",
        left=("who",),
        wrap=False,
    )
    first = by_round(sessions[0].run.metrics())[0].evaluate
    shown.add_row("student before", _accuracy(first))
    for session, choice in zip(sessions, CHOICES, strict=True):
        shown.add_row(choice.text, *_costs(session.run))
    shown.add_row("teacher", _accuracy(teacher))
    console.print(shown)
    console.print(
        "trained: tokens that met the loss; scored, reused: tokens that the teacher read, or\n"
        "that were found in the store; B/token: bytes stored a token.",
        soft_wrap=True,
    )


def _accuracy(numbers: EvaluateMetrics | None) -> str:
    if numbers is None:
        return ""
    interval = f"{percent(numbers.low, 0)}-{percent(numbers.high, 0)}"
    return f"{percent(numbers.accuracy)} ({interval})"


def _costs(run: RunFolder) -> tuple[str, ...]:
    """Return a run's row: its last accuracy, and what all its rounds cost."""
    rounds = by_round(run.metrics())
    spent = costs(rounds)
    return (
        _accuracy(rounds[max(rounds)].evaluate),
        count(spent.trained),
        count(spent.scored),
        count(spent.reused),
        number(spent.bytes_per_token, 0),
        seconds(spent.seconds),
    )
