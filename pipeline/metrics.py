"""Every metric of a run, declared once: a line of `metrics.jsonl` a stage, and lines by round.

Lines are read whatever version wrote them: what a class does not know is passed over, and what an
older version did not measure is None (0 where it is a count).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..storage.errors import StoreError
from ..storage.facts import ClipFacts, ResidualFacts


class Spent(BaseModel):
    """What the seconds of a stage went into; see `storage/ledger.py`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    computing: float = 0.0
    loading: float = 0.0
    waiting: float = 0.0
    writing: float = 0.0
    compiling: float = 0.0

    def plus(self, other: "Spent | None") -> "Spent":
        """Return the sums."""
        more = {} if other is None else other.model_dump()
        return Spent(**{word: n + more.get(word, 0.0) for word, n in self.model_dump().items()})


class Metrics(BaseModel):
    """What every line says."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    round: int
    stage: str
    seconds: float = 0.0
    """Wall time; by round, of all starts together."""
    spent: Spent | None = None
    """What they went into; None where older versions did not say so."""
    peak_memory_mb: int = 0
    """The largest memory that the process had held so far."""
    peak_gpu_memory_mb: int | None = None
    """What torch held on the GPU at most in this stage; None where none was used."""

    # What a run pays for; what it finds instead; how much of a round is its own, whoever found it.
    paid: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def over_all_starts(self, before: "Metrics | None") -> "Metrics":
        """Return the line with the seconds of earlier starts, and its costs counted over all.

        Tokens count as paid for where this run made them, in whichever start, and as reused where
        another did.
        """
        update: dict[str, Any] = {"seconds": self.seconds + (before.seconds if before else 0)}
        if self.spent is not None:
            update["spent"] = self.spent.plus(before.spent if before else None)
        for paid, found, own in self.paid:
            mine = getattr(self, own)
            if mine is not None:
                whole = getattr(self, paid) + getattr(self, found)
                update |= {paid: mine, found: max(0, whole - mine)}  # made twice: paid twice
        return self.model_copy(update=update)


class RolloutMetrics(Metrics):
    """A round's rollouts; lengths in tokens."""

    rollouts: int = 0
    tokens: int = 0
    generated_tokens: int = 0
    """Made now."""
    reused_tokens: int = 0
    """Found in the store."""
    own_tokens: int | None = None
    """Of both, those that this run made, in whichever start."""
    truncated: float | None = None
    """Share of the rollouts that the length limit ended."""
    mean_length: float | None = None
    engine_gap_mean: float | None = None
    """Nats: how far the engine's log-probs are from the embedded engine's; see `EngineGap`."""
    engine_gap_rms: float | None = None
    engine_gap_tokens: int | None = None

    paid = (("generated_tokens", "reused_tokens", "own_tokens"),)


class ScoreMetrics(Metrics):
    """A round's scores; means over its tokens."""

    tokens: int = 0
    teacher_tokens_scored: int = 0
    """Tokens that the teacher read now, prompts included."""
    teacher_tokens_reused: int = 0
    """Tokens that it would have read, had the signals not been found."""
    teacher_tokens_own: int | None = None
    """Of both, those that it read for this run, in whichever start."""
    reverse_kl: float | None = None
    """Nats."""
    student_mass: float | None = None
    teacher_mass: float | None = None
    sampling_gap_rms: float | None = None
    off_policy_kl: float | None = None
    lost_mass: float | None = None
    entries: float | None = None
    """Support ids a token."""
    bytes_per_token: float | None = None
    """Teacher signals and token table together."""

    paid = (("teacher_tokens_scored", "teacher_tokens_reused", "teacher_tokens_own"),)


class SelectMetrics(Metrics):
    """A round's selection; see `SelectionFacts`."""

    rule: str | None = None
    keep: float | None = None
    count: int | None = None
    trainable: int = 0
    kept: int = 0
    kept_reverse_kl: float | None = None
    selected_reverse_kl: float | None = None
    unselected_reverse_kl: float | None = None
    types: dict[str, dict[str, float]] | None = None
    losses: dict[str, int] | None = None
    cuts: dict[str, float] | None = None


class TrainMetrics(Metrics):
    """A round's training; see `CheckpointFacts`."""

    fresh: bool = False
    """Whether it was trained now."""
    fingerprint: str | None = None
    steps: int = 0
    trained_tokens: int = 0
    body_tokens: int = 0
    loss: float | None = None
    losses: tuple[float | None, ...] = ()
    """Of each step, None where it moved nothing."""
    student_mass: float | None = None
    residual: ResidualFacts | None = None
    clip: ClipFacts | None = None
    largest_gradient: float | None = None
    compile_seconds: float | None = None
    skipped: int = 0
    learning_rate: float | None = None
    staleness: float | None = None
    drift_selected: float | None = None
    drift_unselected: float | None = None


class EvaluateMetrics(Metrics):
    """An evaluation: of the student after `round` rounds, or of the teacher."""

    asked: str | None = None
    """Key of problems and settings: evaluations with another one are not to be compared."""
    accuracy: float = 0.0
    """mean@n, 0..1, with its 95 % interval."""
    low: float = 0.0
    high: float = 0.0
    pass_at: dict[int, float] | None = None
    truncated: float | None = None
    problems: int = 0
    samples: int = 0
    reverse_kl: float | None = None
    """Nats: on fresh rollouts of the problems, as the next three."""
    forward_kl: float | None = None
    jsd: float | None = None
    agreement: float | None = None
    """Share of their tokens at which student and teacher have the same first choice."""
    generated_tokens: int = 0
    """Of those rollouts."""
    teacher_tokens_scored: int = 0
    answers: tuple[str, ...] = ()
    """Keys of the answers' artifacts."""
    engine_gap_mean: float | None = None
    engine_gap_rms: float | None = None
    engine_gap_tokens: int | None = None


_KINDS: dict[str, type[Metrics]] = {
    "rollout": RolloutMetrics,
    "score": ScoreMetrics,
    "select": SelectMetrics,
    "train": TrainMetrics,
    "evaluate": EvaluateMetrics,
    "evaluate teacher": EvaluateMetrics,
}


@dataclass
class RoundMetrics:
    """The stages of one round; `evaluate` is of the student that the round starts with."""

    rollout: RolloutMetrics | None = None
    score: ScoreMetrics | None = None
    select: SelectMetrics | None = None
    train: TrainMetrics | None = None
    evaluate: EvaluateMetrics | None = None
    other: dict[str, Metrics] = field(default_factory=dict)
    """Lines of stages that are no part of a round, such as a question to the teacher."""

    def every(self) -> dict[str, Metrics]:
        """Return all lines by stage."""
        own = {name: getattr(self, name) for name in _KINDS if name in self.__dataclass_fields__}
        return {name: line for name, line in own.items() if line is not None} | self.other

    @property
    def seconds(self) -> float:
        """Return the wall time of all stages."""
        return sum(line.seconds for line in self.every().values())


ByRound = Mapping[int, RoundMetrics]


def by_round(lines: Iterable[Mapping[str, Any]]) -> dict[int, RoundMetrics]:
    """Return the metrics of each round, in order; results are the last ones.

    Evaluations with other problems or settings than the last round's are left out.
    """
    read = [_read(line) for line in lines]
    asked = _last_asked(read)
    out: dict[int, RoundMetrics] = defaultdict(RoundMetrics)
    for line in read:
        stage = line.stage
        if _asked(line) not in (None, asked):
            continue
        of_round = out[line.round]
        if stage in _KINDS and stage in RoundMetrics.__dataclass_fields__:
            setattr(of_round, stage, line.over_all_starts(getattr(of_round, stage)))
        else:
            of_round.other[stage] = line.over_all_starts(of_round.other.get(stage))
    return dict(sorted(out.items()))


def _read(line: Mapping[str, Any]) -> Metrics:
    stage = str(line.get("stage"))
    try:
        return _KINDS.get(stage, Metrics).model_validate(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise StoreError(
            f"metrics.jsonl: a line of stage {stage!r} has an unusable {where} "
            f"({first['msg']}); remove that line: the stage is found and told again"
        ) from error


def _asked(line: Metrics) -> str | None:
    """Return what a student was asked, None of other lines and where it is not known."""
    return line.asked if isinstance(line, EvaluateMetrics) and line.stage == "evaluate" else None


def _last_asked(lines: list[Metrics]) -> str | None:
    """Return what was asked in the evaluation of the highest round, the last one of it."""
    found = [line for line in lines if _asked(line) is not None]
    last = max((line.round for line in found), default=None)
    return next((_asked(line) for line in reversed(found) if line.round == last), None)


@dataclass(frozen=True)
class Costs:
    """What all rounds together cost; tokens, and seconds."""

    trained: int
    scored: int
    """Tokens that the teacher read."""
    reused: int
    """Tokens whose signals were there."""
    seconds: float
    bytes_per_token: float
    """Bytes of teacher signals and token tables a response token."""


def costs(rounds: ByRound) -> Costs:
    """Return the costs of rounds."""
    scores = [r.score for r in rounds.values() if r.score is not None]
    tokens = sum(s.tokens for s in scores)
    size = sum((s.bytes_per_token or 0) * s.tokens for s in scores)
    return Costs(
        trained=sum(r.train.trained_tokens for r in rounds.values() if r.train is not None),
        scored=sum(s.teacher_tokens_scored for s in scores),
        reused=sum(s.teacher_tokens_reused for s in scores),
        seconds=sum(r.seconds for r in rounds.values()),
        bytes_per_token=size / tokens if tokens else 0.0,
    )
