"""What runs have done, from their metrics: tables for people."""

from rich.console import Console

from ...storage.errors import ConfigError, StoreError
from ...storage.runs import RunFolder
from ...storage.visible import visible
from ..metrics import ByRound, Spent, by_round
from ..stability import rounds_that_lost_ground
from .cells import count, number, percent, print_lines, screen, seconds, table
from .views import RoundLine, RunLine, round_lines, run_lines

ROUND = ("round", "right", "held-out KL", "rollout KL", "loss", "trained", "made", "scored")
ROUND += ("reused", "stale", "s")
_RUN = ("run", "rule", "keep", "rounds", "accuracy", "held-out KL", "rollout KL")


def print_run(run: RunFolder, console: Console | None = None, *, as_json: bool = False) -> None:
    """Print a run's rounds: what was made, what was reused, what came of it."""
    console = console or screen()
    rounds = by_round(run.metrics())
    if not rounds:
        raise ConfigError(f"no run {run.name} with finished stages under {run.path.parent}")
    if as_json:
        print_lines(round_lines(rounds))
        return
    shown = table(ROUND, f"run {run.name}")
    for line in round_lines(rounds):
        shown.add_row(*cells_of(line))
    console.print(shown)
    console.print(
        "right, held-out KL: of the student after so many rounds, on the problems of `evaluate`;\n"
        "rollout KL: to the teacher on the round's own rollouts, before its training;\n"
        "trained, made (by the student), scored, reused: tokens; stale: KL of before to after.",
        soft_wrap=True,
    )
    print_spent(rounds, console)
    if lost := rounds_that_lost_ground(rounds):
        console.print(
            f"warning: in {len(lost)} rounds, first in round {lost[0]}, the student had lost what "
            "it is not trained on: lower train.lr or train on more tokens (`select`)",
            soft_wrap=True,
        )


def print_spent(rounds: ByRound, console: Console) -> None:
    """Print what the seconds of each stage went into, all rounds together, where that is known."""
    spent: dict[str, Spent] = {}
    for of_round in rounds.values():
        for stage, line in of_round.every().items():
            if line.spent is not None:
                spent[stage] = line.spent.plus(spent.get(stage))
    if not spent:
        return
    words = tuple(Spent.model_fields)
    shown = table(("stage", "s", *words), "what the seconds went into", left=("stage",))
    for stage, of_stage in spent.items():
        parts = [getattr(of_stage, word) for word in words]
        shown.add_row(stage, seconds(sum(parts)), *(seconds(part) for part in parts))
    console.print(shown)


def print_runs(runs: str, console: Console | None = None, *, as_json: bool = False) -> None:
    """Print a line a run."""
    lines = run_lines(runs)
    if not lines:
        raise ConfigError(f"{runs}: no runs here; start one with `tip run CONFIG` or see --runs")
    if as_json:
        print_lines(lines)
        return
    shown = table(_RUN, left=("run", "rule"))
    for line in lines:
        if line.damage is None:
            shown.add_row(*_run(line))
    console = console or screen()
    console.print(shown)
    damaged = [line for line in lines if line.damage is not None]
    for line in damaged:
        console.print(visible(f"run {line.run}: {line.damage}"), soft_wrap=True, markup=False)
    if damaged:
        names = ", ".join(line.run for line in damaged)
        raise StoreError(f"{runs}: damaged: {names}; see above")


def cells_of(line: RoundLine) -> list[str]:
    """Return the cells of a round's line."""
    return [
        count(line.round),
        percent(line.accuracy),
        number(line.held_out_kl),
        number(line.rollout_kl),
        number(line.loss),
        count(line.trained_tokens),
        count(line.generated_tokens),
        count(line.teacher_tokens_scored),
        count(line.teacher_tokens_reused),
        number(line.staleness),
        seconds(line.seconds),
    ]


def _run(line: RunLine) -> list[str]:
    return [
        line.run,
        line.rule or "",
        percent(line.keep, 0) if line.count is None else count(line.count),
        f"{line.trained}/{count(line.rounds)}",
        percent(line.accuracy),
        number(line.held_out_kl),
        number(line.rollout_kl),
    ]
