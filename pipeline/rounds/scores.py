"""The score stage through the store: teacher signals and token tables, a shard an artifact each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...stages.engines.protocols import Tick
from ...stages.score.joint import score_joint
from ...stages.score.keys import teacher_inputs, tokens_inputs
from ...stages.score.separate import score_student
from ...storage.columns import TEACHER, TOKENS
from ...storage.store.store import Artifact, Draft
from ...storage.tables import read_table
from ..progress import Stopwatch
from ..session import Session, Student, report

LOST_TO_TELL = 1e-4  # student mass on ids that an engine could not be asked for
LOST_TO_WARN = 0.05


@dataclass(frozen=True)
class Scores:
    """What scoring gave: teacher signals and token tables, a shard an artifact, in order.

    scored: tokens that the teacher read now (prompts included); the others were found.
    """

    teacher: list[Artifact]
    tokens: list[Artifact]
    scored: int

    @property
    def read(self) -> int:
        """Return the tokens that the teacher read for these shards, now or before."""
        return sum(a.facts["teacher_tokens"] for a in self.teacher)

    def read_for(self, run: str | None) -> int:
        """Return those of them that were read for a run. run: its `RunFolder.id`."""
        return sum(a.facts["teacher_tokens"] for a in self.teacher if a.facts.get("made_by") == run)


def ensure_scores(
    session: Session, number: int, student: Student, rollouts: list[Artifact]
) -> Scores:
    """Return the teacher signals and the token table of a round."""
    watch = Stopwatch()
    scores = score_shards(session, student, rollouts, f"round {number} score")
    everything = scores.read
    numbers = _numbers(scores)
    lost = numbers.get("lost_mass", 0) >= LOST_TO_TELL
    report(
        session,
        number,
        "score",
        watch,
        f"{everything:,} teacher tokens: {scores.scored:,} scored, "
        f"{everything - scores.scored:,} reused; reverse KL {numbers['reverse_kl']:.4f} nats, "
        f"{numbers['entries']:.1f} entries and {numbers['bytes_per_token']:.0f} bytes a token"
        + (f", {numbers['lost_mass']:.2%} of the student's mass lost" if lost else ""),
        teacher_tokens_scored=scores.scored,
        teacher_tokens_reused=everything - scores.scored,
        teacher_tokens_own=scores.read_for(session.run.id),
        **numbers,
    )
    if numbers.get("lost_mass", 0) >= LOST_TO_WARN:
        session.reporter.say(
            f"note: the support lacks {numbers['lost_mass']:.0%} of the student's mass, since the "
            "teacher's engine cannot be asked for the student's ids: divergences, selection and "
            "loss see little of the student; use score.engine = 'transformers', or vLLM on a GPU"
        )
    session.run.update_round(
        number, teacher=[a.key for a in scores.teacher], tokens=[a.key for a in scores.tokens]
    )
    return scores


def score_shards(
    session: Session, student: Student, rollouts: list[Artifact], title: str
) -> Scores:
    """Return the scores of some shards of rollouts; only what is missing is computed."""
    if session.config.score.mode == "separate":
        from .separate import score_separately

        return Scores(*score_separately(session, student, rollouts, title))
    teacher, tokens, scored = [], [], 0
    total = sum(a.facts["tokens"] for a in rollouts)
    with session.reporter.bar(title, total, "tokens") as tick:
        for source in rollouts:
            scorer = _ShardScorer(session, student, source, tick)
            signals, table = scorer.ensure()
            teacher.append(signals)
            tokens.append(table)
            scored += signals.facts["teacher_tokens"] if scorer.teacher_ran else 0
            if not scorer.ran:
                tick(source.facts["tokens"])
    return Scores(teacher, tokens, scored)


class _ShardScorer:
    """Teacher signals and token table of one shard of rollouts; both come from one pass.

    Where the student is the one that made the rollouts, both models run and all numbers are exact.
    Another student (a replay) runs alone over the stored signals, and its numbers are marked
    `support`.
    """

    def __init__(self, session: Session, student: Student, source: Artifact, tick: Tick) -> None:
        self.session, self.student, self.source, self.tick = session, student, source, tick
        self.exact = source.inputs["student"] == student.fingerprint
        self.ran = self.teacher_ran = False
        self._tokens: tuple[pa.Table, dict] | None = None

    def ensure(self) -> tuple[Artifact, Artifact]:
        session, config = self.session, self.session.config
        inputs = teacher_inputs(
            session.teacher_card.fingerprint,
            str(session.dtype(config.teacher)),
            (self.source.key, self.source.content),
            session.shown_prompts(self.source),
            config.score,
        )
        teacher, _ = session.store.ensure("teacher", inputs, self._make_teacher)
        about = tokens_inputs(
            self.student.fingerprint,
            str(session.dtype(self.student.settings)),
            (teacher.key, teacher.content),
            "exact" if self.exact else "support",
        )
        make = self._make_exact if self.exact else lambda d: self._make_support(d, teacher)
        tokens, _ = session.store.ensure("tokens", about, make)
        return teacher, tokens

    def _make_teacher(self, draft: Draft) -> dict[str, Any]:
        teacher, tokens, facts = self._score()
        self._tokens = (tokens, facts) if self.exact else None
        draft.table("teacher", teacher, TEACHER)
        return facts | {"made_by": self.session.run.id}

    def _make_exact(self, draft: Draft) -> dict[str, Any]:
        table, facts = self._tokens or self._score()[1:]
        draft.table("tokens", table, TOKENS)
        return facts | {"mode": "exact"}

    def _make_support(self, draft: Draft, teacher: Artifact) -> dict[str, Any]:
        self.ran = True
        store = self.session.store
        model = self.session.model("student", self.student.settings)
        table, facts = score_student(
            model,
            read_table([store.path(self.source, "rollouts")]),
            read_table([store.path(teacher, "teacher")]),
            self.session.config.score,
            tick=self.tick,
        )
        draft.table("tokens", table, TOKENS)
        return facts | {"mode": "support"}

    def _score(self) -> tuple[pa.Table, pa.Table, dict]:
        self.ran = self.teacher_ran = True
        session = self.session
        return score_joint(
            session.model("student", self.student.settings),
            session.model("teacher", session.config.teacher),
            read_table([session.store.path(self.source, "rollouts")]),
            session.config.score,
            teacher_prompts=session.teacher_prompts(),
            tick=self.tick,
        )


def mean_over_tokens(tables: Sequence[Artifact], name: str) -> float:
    """Return the mean of a fact over the tokens of several shards."""
    weights = [a.facts["tokens"] for a in tables]
    return float(np.average([a.facts[name] for a in tables], weights=weights))


def _numbers(scores: Scores) -> dict[str, float]:
    """Return a round's means over tokens, from the facts of its shards."""
    tokens = sum(a.facts["tokens"] for a in scores.tokens)
    size = sum(a.bytes for a in (*scores.teacher, *scores.tokens))
    means = ("reverse_kl", "student_mass", "teacher_mass", "sampling_gap_rms", "off_policy_kl")
    if all("lost_mass" in a.facts for a in scores.tokens):
        means = (*means, "lost_mass")
    return {name: mean_over_tokens(scores.tokens, name) for name in means} | {
        "tokens": tokens,
        "entries": sum(a.facts["entries"] for a in scores.teacher) / tokens,
        "bytes_per_token": size / tokens,
    }
