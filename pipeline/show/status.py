"""What runs have done, from their metrics: tables for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...storage.errors import ConfigError
from ...storage.runs import RunFolder, run_names
from ..metrics import by_round
from ..stability import rounds_that_lost_ground


def print_run(run: RunFolder, console: Console | None = None) -> None:
    """Print a run's rounds: what was made, what was reused, what came of it."""
    rounds = by_round(run.metrics())
    if not rounds:
        raise ConfigError(f"no run {run.name} with finished stages under {run.path.parent}")
    table = Table(
        title=f"run {run.name}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in (
        "round",
        "right",
        "KL",
        "loss",
        "trained",
        "made",
        "scored",
        "reused",
        "stale",
        "s",
    ):
        table.add_column(name, justify="right")
    for number, stages in rounds.items():
        table.add_row(*_row(number, stages))
    (console or Console()).print(table)
    (console or Console()).print(
        "right: answers after so many rounds; KL: to the teacher, on the round's rollouts;\n"
        "trained, made (by the student), scored, reused: tokens; stale: KL of before to after.",
        soft_wrap=True,
    )
    if lost := rounds_that_lost_ground(rounds):
        (console or Console()).print(
            f"warning: in {len(lost)} rounds, first in round {lost[0]}, the student had lost what "
            "it is not trained on: lower train.lr or raise select.keep",
            soft_wrap=True,
        )


def print_runs(runs: str, console: Console | None = None) -> None:
    """Print a line a run."""
    names = run_names(runs)
    if not names:
        raise ConfigError(f"{runs}: no runs here; start one with `tip run CONFIG` or see --runs")
    table = Table()
    for name in ("run", "rule", "keep", "rounds", "accuracy", "reverse KL"):
        table.add_column(name, justify="left" if name in ("run", "rule") else "right")
    for name in names:
        run = RunFolder(runs, name)
        config = (run.config() or {}).get("config", {})
        done = sum("checkpoint" in pointers for _, pointers in run.rounds())
        rounds = by_round(run.metrics())
        last = _last(rounds, "evaluate", "accuracy")
        select = config.get("select", {})
        table.add_row(
            name,
            str(select.get("rule")),
            f"{select.get('keep', 0):.0%}",
            f"{min(done, config.get('rounds', done))}/{config.get('rounds')}",
            "" if last is None else f"{last:.1%}",
            _number(_last(rounds, "score", "reverse_kl")),
        )
    (console or Console()).print(table)


def _row(number: int, stages: dict[str, dict[str, Any]]) -> list[str]:
    score, train = stages.get("score", {}), stages.get("train", {})
    accuracy = stages.get("evaluate", {}).get("accuracy")
    generated = stages.get("rollout", {}).get("generated_tokens")
    return [
        str(number),
        "" if accuracy is None else f"{accuracy:.1%}",
        _number(score.get("reverse_kl")),
        _number(train.get("loss")),
        _count(train.get("trained_tokens")),
        _count(generated),
        _count(score.get("teacher_tokens_scored")),
        _count(score.get("teacher_tokens_reused")),
        _number(train.get("staleness")),
        f"{sum(s['seconds'] for s in stages.values()):.1f}",
    ]


def _last(rounds: dict[int, dict[str, dict[str, Any]]], stage: str, name: str) -> Any:
    """Return a number of the highest round that has it."""
    found = [stages[stage][name] for stages in rounds.values() if name in stages.get(stage, {})]
    return found[-1] if found else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
