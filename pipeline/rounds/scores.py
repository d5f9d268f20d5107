"""The score stage of a round: teacher signals and token tables, a shard an artifact each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...stages.holder import gap_limit
from ...stages.models.weights import Weights
from ...storage.errors import DisagreementError
from ...storage.facts import RolloutFacts, TeacherFacts, TokensFacts
from ...storage.store.store import Artifact
from ..metrics import ScoreMetrics
from ..progress import Stopwatch
from ..session import Session
from ..works.scores import ScoreWork, TeacherWork, TokensWork
from ..works.work import Made
from .generators import reader_of
from .report import report

LOST_TO_TELL = 1e-4  # student mass on ids that an engine could not be asked for
LOST_TO_WARN = 0.05


@dataclass(frozen=True)
class Scores:
    """What scoring gave: teacher signals and token tables, a shard each, in order."""

    teacher: list[Artifact]
    tokens: list[Artifact]
    scored: int
    """Tokens that the teacher read now (prompts included)."""
    reused: int
    """Tokens that it would have read, had the signals not been found."""

    def read_for(self, run: str | None) -> int:
        """Return the tokens that the teacher read for a run, in whichever start. run: its id."""
        facts = [TeacherFacts.of(a) for a in self.teacher]
        counts = [f.teacher_tokens for f in facts if f.made_by == run]
        return sum(counts) + sum(
            _read_for_table(f) for f in map(TokensFacts.of, self.tokens) if f.made_by == run
        )


def ensure_scores(
    session: Session, number: int, student: Weights, rollouts: list[Artifact]
) -> Scores:
    """Return the teacher signals and the token table of a round."""
    watch = Stopwatch(session.store.ledger)
    scores = score_shards(session, student, rollouts, f"round {number} score")
    metrics = _metrics(session, number, scores)
    lost = metrics.lost_mass or 0
    report(
        session,
        watch,
        f"{scores.scored + scores.reused:,} teacher tokens: {scores.scored:,} scored, "
        f"{scores.reused:,} reused; reverse KL {metrics.reverse_kl:.4f} nats, "
        f"{metrics.entries:.1f} entries and {metrics.bytes_per_token:.0f} bytes a token"
        + (f", {lost:.2%} of the student's mass lost" if lost >= LOST_TO_TELL else ""),
        metrics,
    )
    if lost >= LOST_TO_WARN:
        session.reporter.say(
            f"note: the support lacks {lost:.0%} of the student's mass, since the teacher's engine "
            "cannot be asked for the student's ids: divergences, selection and loss see little of "
            "the student; use score.engine = 'transformers', or vLLM on a GPU"
        )
    _refuse_gross_sampling(session, student, rollouts, scores.tokens)
    session.run.point(
        number, teacher=[a.key for a in scores.teacher], tokens=[a.key for a in scores.tokens]
    )
    return scores


def score_shards(
    session: Session, student: Weights, rollouts: Sequence[Artifact], title: str
) -> Scores:
    """Return the scores of some shards of rollouts; only what is missing is computed.

    Where both models are in memory and the student is the one that made the rollouts, one pass
    gives both tables. A replay has another student, and separate mode one model at a time: there
    all shards are read by the teacher, then all by the student.
    """
    joint = session.config.score.mode == "joint"
    if joint and all(a.inputs["student"] == student.fingerprint for a in rollouts):
        made = session.executor.map(score_works(session, student, rollouts), title)
        teacher, tokens = [pair[0] for pair in made], [pair[1] for pair in made]
    else:
        read = session.executor.map(teacher_works(session, rollouts), f"{title} (teacher)")
        teacher = [only for (only,) in read]
        signals = [each.artifact for each in teacher]
        works = tokens_works(session, student, rollouts, signals)
        tokens = [only for (only,) in session.executor.map(works, f"{title} (student)")]
    return _scores(teacher, tokens)


def score_works(
    session: Session, student: Weights, rollouts: Sequence[Artifact]
) -> list[ScoreWork]:
    """Return what scores shards with both models."""
    inputs, settings = session.inputs, session.config.score
    teacher = inputs.teacher("transformers")
    return [
        ScoreWork(student, teacher, source, inputs.shown(source), settings, session.run.id)
        for source in rollouts
    ]


def teacher_works(session: Session, rollouts: Sequence[Artifact]) -> list[TeacherWork]:
    """Return what scores shards with the teacher alone."""
    inputs, settings = session.inputs, session.config.score
    teacher, reader = inputs.teacher(settings.engine), reader_of(session)
    rows, own = inputs.student_card.head_rows, session.run.id
    return [
        TeacherWork(teacher, reader, source, inputs.shown(source), settings, rows, own)
        for source in rollouts
    ]


def tokens_works(
    session: Session, student: Weights, rollouts: Sequence[Artifact], signals: Sequence[Artifact]
) -> list[TokensWork]:
    """Return what compares the student with stored signals."""
    return [
        TokensWork(student, source, teacher, session.config.score)
        for source, teacher in zip(rollouts, signals, strict=True)
    ]


def mean_over_tokens(tables: Sequence[Artifact], name: str) -> float:
    """Return the mean of a fact over the tokens of several shards."""
    facts = [TokensFacts.of(a) for a in tables]
    weights = [f.tokens for f in facts]
    return float(np.average([getattr(f, name) for f in facts], weights=weights))


def _scores(teacher: Sequence[Made], tokens: Sequence[Made]) -> Scores:
    """Return what was found or made, a shard each, with what its signals cost now and saved."""
    scored = reused = 0
    for signals, table in zip(teacher, tokens, strict=True):
        whole = TeacherFacts.of(signals.artifact).teacher_tokens
        now = whole if signals.fresh else 0
        now += _read_for_table(TokensFacts.of(table.artifact)) if table.fresh else 0
        scored += now
        reused += max(0, whole - now)
    return Scores([m.artifact for m in teacher], [m.artifact for m in tokens], scored, reused)


def _read_for_table(facts: TokensFacts) -> int:
    """Return the tokens that the teacher read for a token table alone.

    Versions that kept nobody's name beside it meant the pass that gave both tables.
    """
    return 0 if facts.made_by is None else facts.teacher_tokens or 0


def _metrics(session: Session, number: int, scores: Scores) -> ScoreMetrics:
    """Return a round's means over tokens, from the facts of its shards."""
    tables = [TokensFacts.of(a) for a in scores.tokens]
    tokens = sum(f.tokens for f in tables)
    size = sum(a.bytes for a in (*scores.teacher, *scores.tokens))
    means = ["reverse_kl", "student_mass", "teacher_mass", "sampling_gap_rms", "off_policy_kl"]
    if all(f.lost_mass is not None for f in tables):
        means.append("lost_mass")
    return ScoreMetrics.model_validate(
        {
            "round": number,
            "stage": "score",
            "teacher_tokens_scored": scores.scored,
            "teacher_tokens_reused": scores.reused,
            "teacher_tokens_own": scores.read_for(session.run.id),
            "tokens": tokens,
            "entries": sum(TeacherFacts.of(a).entries for a in scores.teacher) / tokens,
            "bytes_per_token": size / tokens,
        }
        | {name: mean_over_tokens(scores.tokens, name) for name in means}
    )


def _refuse_gross_sampling(
    session: Session, student: Weights, rollouts: Sequence[Artifact], tables: Sequence[Artifact]
) -> None:
    """Raise `DisagreementError` where an engine that could not be compared before is far off.

    Of such an engine the first scored shard tells: its log-probs, as they were kept while sampling,
    against those of the student's own pass.
    """
    for source, table in zip(rollouts, tables, strict=True):
        unproven = source.inputs["engine"] == "vllm" and RolloutFacts.of(source).engine_gap is None
        if not unproven or source.inputs["student"] != student.fingerprint:
            continue
        gap = TokensFacts.of(table).sampling_gap_rms
        limit = gap_limit(student)
        if not gap <= limit:
            raise DisagreementError(
                f"rollouts {source.key}: vLLM's log-probs differ from the trainer's by {gap:.3g} "
                f"nats (at most {limit:g} expected): it computes another model, and its rollouts "
                "are off-policy; remove them, and set engine = 'transformers', or vllm.max_gap if "
                "this is wanted"
            )
