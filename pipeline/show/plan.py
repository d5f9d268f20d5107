"""`tip run --dry-run`: a plan as two tables and a line of sums."""

import sys

from rich.console import Console

from ...stages.models.device import resolve_device
from ...storage.visible import visible
from ..config.run import RunConfig
from ..plan.disk import Merge, WeightsOnDisk
from ..plan.plan import Plan, RoundPlan
from .cells import count, size, table

_WIDTH = 120  # columns of what goes to a file or a pipe
_ENDS = 24  # tokens shown of either end of a prompt
_ROUND = ("round", "shards", "rollouts", "tokens", "teacher tokens", "disk", "in the store")


def print_plan(config: RunConfig, plan: Plan, console: Console | None = None) -> None:
    """Print what a run would do."""
    width = None if sys.stdout.isatty() else _WIDTH
    console = console or Console(highlight=False, width=width)
    number = count(sum(line.rounds for line in plan.rounds))
    rounds = table(_ROUND, f"run {config.name}: {number} rounds", left=("in the store",))
    for line in plan.rounds:
        rounds.add_row(*_round(line))
    console.print(rounds)
    most = "at most " if plan.unhashed else ""
    console.print(
        f"estimates: {plan.response_tokens:.0f} tokens a response ({plan.basis}); still to be "
        f"made: {most}{count(plan.tokens)} generated tokens, {count(plan.teacher_tokens)} teacher "
        f"tokens, {size(plan.bytes)} of tables{_weights(plan.weights)}",
        soft_wrap=True,
    )
    memory = table(
        ("stage", "about", "what"),
        f"memory on {resolve_device(config.device)} (estimates)",
        left=("stage", "what"),
    )
    for need in plan.memory:
        memory.add_row(need.stage, size(need.bytes) or "not known", need.what)
    console.print(memory)
    for merge in plan.merges:
        console.print(_merge(merge), markup=False, soft_wrap=True)
    if plan.prompt:
        console.print(_prompt(plan.prompt), markup=False, soft_wrap=True)
    if plan.unhashed:
        console.print(
            f"What the store holds is not known: the weights of {' and '.join(plan.unhashed)} were "
            "never hashed here, and a plan reads no weights. The first run hashes them.",
            soft_wrap=True,
        )


def _weights(weights: WeightsOnDisk | None) -> str:
    if weights is None:
        return ", and checkpoints beside"
    return (
        f", {size(weights.checkpoints)} of checkpoints; the run folder holds up to "
        f"{size(weights.states)} of training states"
    )


def _merge(merge: Merge) -> str:
    return visible(
        f"{merge.role}: the adapter {merge.adapter} (rank {merge.rank}) is to be merged over "
        f"{merge.base} first, once: {size(merge.bytes)} in the store"
    )


def _prompt(prompt: tuple[tuple[int, str], ...]) -> str:
    """Return a prompt token by token: where it is long, its beginning and its end."""
    tokens = [f"{i} {text!r}" for i, text in prompt]
    if len(tokens) > 2 * _ENDS:
        left_out = len(tokens) - 2 * _ENDS
        tokens = [*tokens[:_ENDS], f"({left_out} more)", *tokens[-_ENDS:]]
    return f"first prompt, {len(prompt)} tokens: {', '.join(tokens)}"


def _round(line: RoundPlan) -> list[str]:
    last = "" if line.rounds == 1 else f"-{count(line.number + line.rounds - 1)}"
    return [
        f"{count(line.number)}{last}",
        count(line.shards),
        count(line.rollouts),
        count(line.tokens),
        count(line.teacher_tokens),
        size(line.bytes),
        _state(line),
    ]


def _state(line: RoundPlan) -> str:
    if line.trained:
        return "trained"
    if line.cached_rollouts is None:
        return "not known before"
    of = line.shards
    scored = "not known" if line.cached_scores is None else f"{line.cached_scores}/{of}"
    return f"{line.cached_rollouts}/{of} rolled out, {scored} scored"
