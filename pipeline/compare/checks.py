"""What would stop a comparison halfway, met before anything is played."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ...stages.select.check import check_selection
from ...stages.train.settings import TrainSettings
from ...storage.errors import ConfigError
from ...storage.runs import RunFolder, RunView
from ..checks import check_inputs
from ..config.auto import decided
from ..config.run import RunConfig
from ..config.same import same_run
from ..inputs import Inputs
from ..progress import Reporter
from ..rounds.identity import check_usable
from ..rounds.losses import check_losses
from ..session import look_at
from .rows import NO_REFRESH, TEACHER_FREE, Row, refuse_unused, run_config


@dataclass(frozen=True)
class Job:
    """One run of a comparison."""

    row: Row
    seed: int
    config: RunConfig


def jobs_of(
    config: RunConfig, rows: Sequence[Row], seeds: Iterable[int], reporter: Reporter
) -> list[Job]:
    """Return the runs of a comparison, seed by seed, each shown to be one that can be played.

    Left out, with a note: no refresh where there are fewer prompts than it needs, and the control
    without a teacher where supports lack the sampled tokens. Raises `ConfigError` or another
    `TipError` for the first run that could not be played: a name that no run may have, a run that
    was begun otherwise, a rule or condition that is not SQL over the tables, a loss that supports
    cannot serve, models, prompts or problems that do not serve.
    """
    if config.evaluate is None:
        raise ConfigError("compare needs an [evaluate] section: add one with problems and answers")
    refuse_unused(config.select, rows)
    seeds = list(seeds)
    inputs = Inputs(config, reporter, look=True)
    check_inputs(inputs)
    if not all(row.refresh for row in rows) and not _prompts_suffice(config, inputs, reporter):
        rows = [row for row in rows if row.refresh]
    if config.score.support == "sampled":
        rows = _with_a_teacher(rows, reporter)
    config = _of_one_tail(config, rows, seeds, reporter)
    jobs = [Job(row, seed, run_config(config, row, seed)) for seed in seeds for row in rows]
    for job in jobs:
        _check_begun(job.config)
    for each in {job.config.select.model_dump_json(): job.config for job in jobs}.values():
        check_selection(each.select)
        check_losses(each)
    for each in {_inputs(job.config): job.config for job in jobs}.values():
        check_usable(look_at(each))
    return jobs


def _of_one_tail(
    config: RunConfig, rows: Sequence[Row], seeds: Sequence[int], reporter: Reporter
) -> RunConfig:
    """Return a config whose `auto` tail is decided for all rows at once: else they differed in it.

    It is that of the runs that have begun; else a residual where every row can have one.
    """
    configs = [run_config(config, row, seed) for seed in seeds for row in rows]
    open_ = [each for each in configs if each.train.tail == "auto"]  # which no row decides itself
    runs = {each.name: RunView(each.runs, each.name) for each in open_}
    begun = [each for each in open_ if any(runs[each.name].rounds())]
    found = [decided(each, runs[each.name]) for each in begun or open_]
    tails = [each.train.tail for each, _ in found]
    if not tails or (begun and len(set(map(repr, tails))) > 1):
        return config  # no row has it, or an older version let them differ: each keeps its own
    tail = next((tail for tail in tails if tail != "residual"), "residual")
    if not begun and tail != "residual":
        why = next(told[-1] for each, told in found if each.train.tail != "residual")
        reporter.say(why.replace("in this run", "in all rows, since in one"))
    return config.model_copy(update={"train": config.train.model_copy(update={"tail": tail})})


def _inputs(config: RunConfig) -> str:
    """Return all of a config that its models, prompts and problems depend on, and some more."""
    others = set(TrainSettings.model_fields) - {
        "tail",
        "activation_checkpointing",
        "lora",
        "optimizer",
    }
    names = ("name", "rounds", "seed", "data_seed", "select")
    return config.model_dump_json(exclude=dict.fromkeys(names, True) | {"train": others})


def _prompts_suffice(config: RunConfig, inputs: Inputs, reporter: Reporter) -> bool:
    """Tell whether one round can hold the prompts of all rounds; say so where it cannot."""
    needed = config.rollout.prompts * config.rounds
    if config.rollout.replay is not None or needed <= len(inputs.prompts):
        return True
    reporter.say(
        f"note: the control `{NO_REFRESH.name}` is left out: its one round holds rounds x "
        f"rollout.prompts = {needed} distinct prompts, and there are {len(inputs.prompts)}; add "
        "prompts or lower one of the two to have it"
    )
    return False


def _with_a_teacher(rows: Sequence[Row], reporter: Reporter) -> list[Row]:
    """Return the rows but for the control without a teacher; say so where there was one."""
    kept = [row for row in rows if row.rule != TEACHER_FREE]
    if len(kept) < len(rows):
        reporter.say(
            f"note: the control `{TEACHER_FREE}` is left out: it lowers the log-probs of sampled "
            "tokens, which supports of score.support = 'sampled' lack"
        )
    return kept


def _check_begun(config: RunConfig) -> None:
    """Raise `ConfigError` where a run of this name exists that is not the one to be played.

    Its length counts too: the schedule of the learning rate was laid out for it.
    """
    run = RunFolder(config.runs, config.name)
    about = run.about()
    if about is None or not any(run.rounds()):
        return
    before = about.config
    differ = [f"{key} = {_value(before, key)!r}" for key in same_run(before, config)]
    lengths = (about.horizon_rounds or config.rounds, before["rounds"])
    differ += [f"rounds = {length}" for length in lengths if length != config.rounds][:1]
    if about.branch is not None:
        differ.append("rounds of another run (--from)")
    if differ:
        raise ConfigError(
            f"run {config.name} in {config.runs} was begun otherwise, with {', '.join(differ)}: "
            "give the comparison another name (--name), its stored signals are shared"
        )


def _value(values: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key, None where there is none."""

    def within(place: Any, part: str) -> Any:
        return place.get(part) if isinstance(place, dict) else None

    return reduce(within, key.split("."), values)
