"""What tables show, as data: typed lines, for the terminal, a page or a notebook.

`polars.DataFrame(lines)` makes a frame of any of them. None: not measured, or not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from ...stages.select.rulebook import taken
from ...storage.errors import TipError
from ...storage.runs import RunFolder, run_names
from ..metrics import ByRound, RoundMetrics, by_round


@dataclass(frozen=True)
class RoundLine:
    """A round of a run; tokens are counts, KL, loss and staleness in nats a token.

    accuracy, held_out_kl: of the student that the round starts with, on held-out problems, 0..1 and
    reverse KL to the teacher. rollout_kl: the same on the round's own rollouts,
    before its training. generated: by the student. staleness: KL of before to after the training.
    spent: seconds by stage and by what they went into, of stages whose metrics say so.
    """

    round: int
    accuracy: float | None
    held_out_kl: float | None
    rollout_kl: float | None
    loss: float | None
    trained_tokens: int | None
    generated_tokens: int | None
    teacher_tokens_scored: int | None
    teacher_tokens_reused: int | None
    staleness: float | None
    seconds: float
    spent: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLine:
    """A run: what it selects, how far it is, what it came to last.

    keep, count: of the tokens, a share or so many of each scope. trained, rounds: rounds that are
    trained, of all that the config asks for. damage: what is wrong with its folder; then nothing
    else is known.
    """

    run: str
    rule: str | None
    keep: float | None
    trained: int
    rounds: int | None
    accuracy: float | None
    held_out_kl: float | None
    rollout_kl: float | None
    damage: str | None = None
    count: int | None = None


class _Select(BaseModel):
    rule: str | None = None
    keep: float | None = None
    count: int | None = None


class _Config(BaseModel):
    """What a line says of a run's config, whatever version wrote it."""

    rounds: int | None = None
    select: _Select = _Select()


def round_lines(rounds: ByRound) -> list[RoundLine]:
    """Return a line a round, of metrics as `metrics.by_round` gives them."""
    return [_round_line(number, of_round) for number, of_round in rounds.items()]


def run_lines(runs: str) -> list[RunLine]:
    """Return a line a run under a folder of run folders, by name."""
    return [_line_or_damage(RunFolder(runs, name)) for name in run_names(runs)]


def _line_or_damage(run: RunFolder) -> RunLine:
    try:
        return _run_line(run)
    except (TipError, ValidationError) as error:
        reason = " ".join(str(error).split())
        return RunLine(run.name, None, None, 0, None, None, None, None, damage=reason)


def _round_line(number: int, of_round: RoundMetrics) -> RoundLine:
    rollout, score, train = of_round.rollout, of_round.score, of_round.train
    return RoundLine(
        round=number,
        accuracy=None if of_round.evaluate is None else of_round.evaluate.accuracy,
        held_out_kl=None if of_round.evaluate is None else of_round.evaluate.reverse_kl,
        rollout_kl=None if score is None else score.reverse_kl,
        loss=None if train is None else train.loss,
        trained_tokens=None if train is None else train.trained_tokens,
        generated_tokens=None if rollout is None else rollout.generated_tokens,
        teacher_tokens_scored=None if score is None else score.teacher_tokens_scored,
        teacher_tokens_reused=None if score is None else score.teacher_tokens_reused,
        staleness=None if train is None else train.staleness,
        seconds=of_round.seconds,
        spent={
            stage: line.spent.model_dump()
            for stage, line in of_round.every().items()
            if line.spent is not None
        },
    )


def _run_line(run: RunFolder) -> RunLine:
    about = run.about()
    config = _Config.model_validate({} if about is None else about.config)
    select, rounds = config.select, config.rounds
    keep, count = taken(select.rule, select.keep, select.count)
    trained = sum(pointers.checkpoint is not None for _, pointers in run.rounds())
    lines = round_lines(by_round(run.metrics()))
    return RunLine(
        run=run.name,
        rule=select.rule,
        keep=keep,
        count=count,
        trained=trained if rounds is None else min(trained, rounds),
        rounds=rounds,
        accuracy=_last(line.accuracy for line in lines),
        held_out_kl=_last(line.held_out_kl for line in lines),
        rollout_kl=_last(line.rollout_kl for line in lines),
    )


def _last(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None
