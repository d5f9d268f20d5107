"""`tip run --dry-run`: a plan as two tables and a line of sums."""

import sys

from rich.console import Console
from rich.table import Table

from ...storage.visible import visible
from ..config.run import RunConfig
from ..plan.disk import Merge, WeightsOnDisk
from ..plan.needs import Need
from ..plan.plan import Plan, RoundPlan, plan_of
from ..plan.target import Target, card, on_card
from ..plan.ways import Way
from ..progress import Reporter
from ..session import look_at
from .cells import count, print_lines, size, table

_WIDTH = 120  # columns of what goes to a file or a pipe
_ENDS = 24  # tokens shown of either end of a prompt
_PARTS = (
    "parameters",
    "gradients",
    "moments",
    "activations",
    "logits",
    "cache",
    "loading",
    "process",
)
_NO_WAY = "no setting alone makes it fit: take smaller models, or a larger device"
_ROUND = ("round", "shards", "rollouts", "tokens", "teacher tokens", "disk", "in the store")


def plan_and_print(
    config: RunConfig,
    reporter: Reporter,
    origin: str | None,
    gigabytes: float | None,
    *,
    as_json: bool = False,
) -> None:
    """Print what a run would do. origin: `RUN@N` where it would branch off.

    gigabytes: of a GPU to plan memory for, None: for the device that is here.
    """
    target = None if gigabytes is None else card(gigabytes)
    meant = config if target is None else on_card(config)
    plan = plan_of(look_at(meant, reporter, origin), origin, target)
    if as_json:
        print_lines([plan])
    else:
        print_plan(config, plan)


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
    console.print(_memory(plan.memory, plan.target))
    for need in plan.memory:
        if need.stage in plan.ways:
            text = _short(need, plan.target, plan.ways[need.stage])
            console.print(text, markup=False, soft_wrap=True)
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


def or_else(ways: list[Way]) -> str:
    """Return what lets a stage fit, as the end of a sentence."""
    if not ways:
        return _NO_WAY
    return "; or ".join(f"set {_changes(way)} ({way.costs})" for way in ways)


def _changes(way: Way) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in way.changes.items())


def _value(value: object) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def _memory(needs: list[Need], target: Target) -> Table:
    """Return what each stage needs of a device by what it is for; what none needs is left out."""
    used = [name for name in _PARTS if any(n.parts and getattr(n.parts, name) for n in needs)]
    headings = ("stage", *used, "in all", "", "of what")
    made = table(
        headings,
        f"memory on {target.name}, {size(target.usable)} of {size(target.total)} to be had "
        "(estimates, of each device)",
        left=("stage", "", "of what"),
    )
    for need in needs:
        cells = [size(getattr(need.parts, name, None) or None) for name in used]
        made.add_row(need.stage, *cells, _all(need), _verdict(need, target), _about(need, target))
    return made


def _all(need: Need) -> str:
    return "not known" if need.bytes is None else size(need.bytes)


def _verdict(need: Need, target: Target) -> str:
    fits = need.fits(target)
    return "" if fits is None or need.least is None else "fits" if fits else "does not fit"


def _about(need: Need, target: Target) -> str:
    """Return what a stage's bytes are counted for."""
    on = f" on each of {need.devices} devices" if need.devices > 1 else ""
    text = f"{need.about}{on}"
    if need.sequence and need.bytes is not None and need.fits(target):
        more = 1 + int((need.room(target) - need.bytes) / need.sequence)
        text += f", room for {more:,} sequences"
    return text


def _short(need: Need, target: Target, ways: list[Way]) -> str:
    """Return what does not fit, and what lets it, a line each."""
    has = size(need.room(target))
    head = f"{need.stage} does not fit: it takes about {size(need.bytes)} and may have {has}"
    if not ways:
        return f"{head}: {_NO_WAY}"
    lines = [f"  {size(way.bytes):>9}  {_changes(way)} ({way.costs})" for way in ways]
    return "\n".join([f"{head}. What lets it fit, the cheapest first:", *lines])


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
