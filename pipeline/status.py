"""What runs have done, from their metrics: tables for people."""

from collections import defaultdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..storage.errors import ConfigError
from ..storage.runs import RunFolder, run_names
from .stability import rounds_that_lost_ground

# What a run pays for; what it finds instead; how much of a round is its own, whoever found it.
_PAID = {
    "generated_tokens": ("reused_tokens", "own_tokens"),
    "teacher_tokens_scored": ("teacher_tokens_reused", "teacher_tokens_own"),
}


def by_round(metrics: list[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return round -> stage -> its numbers; seconds add up over starts, results are the last ones.

    Tokens count as paid for where this run made them, in whichever start, and as reused where
    another did. Evaluations with other problems or settings than the last round's are left out.
    """
    asked = _last_asked(metrics)
    out: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in metrics:
        if "asked" in line and line["stage"] == "evaluate" and line["asked"] != asked:
            continue
        before = out[line["round"]].get(line["stage"], {})
        seconds = before.get("seconds", 0) + line["seconds"]
        out[line["round"]][line["stage"]] = {**line, **_paid(line), "seconds": seconds}
    return dict(sorted(out.items()))


def _paid(line: dict[str, Any]) -> dict[str, int]:
    """Return a line's costs, counted over all starts of the run."""
    costs = {}
    for paid, (found, own) in _PAID.items():
        if own in line:
            costs |= {paid: line[own], found: line[paid] + line[found] - line[own]}
    return costs


def _last_asked(metrics: list[dict[str, Any]]) -> str | None:
    """Return what was asked in the evaluation of the highest round, the last one of it."""
    lines = [m for m in metrics if m["stage"] == "evaluate" and "asked" in m]
    last = max((m["round"] for m in lines), default=None)
    return next((m["asked"] for m in reversed(lines) if m["round"] == last), None)


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
