"""Scores of a shard of rollouts: teacher signals and token table.

Where the student is the one that made the rollouts and both models fit into memory, one pass over
both makes the two artifacts and all numbers are exact (`ScoreWork`). Else the teacher runs alone
(`TeacherWork`), then the student over the stored signals (`TokensWork`), whose numbers are marked
`support`. What the embedded engine makes of the teacher has one key on either way.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...stages.engines.protocols import Spared, Tick
from ...stages.engines.server.scorer import ServerScorer, probe_inputs
from ...stages.holder import Holder, Reader, Served
from ...stages.models.weights import Weights
from ...stages.score.by_engine import score_with_engine
from ...stages.score.checks import CHECK_TOLERANCE
from ...stages.score.joint import score_joint
from ...stages.score.keys import engine_teacher_inputs, teacher_inputs, tokens_inputs
from ...stages.score.separate import score_student, score_teacher
from ...stages.score.settings import ScoreSettings
from ...storage.columns import TEACHER, TOKENS
from ...storage.errors import ModelError
from ...storage.facts import ProbeFacts, RolloutFacts, TeacherFacts, TokensFacts
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Draft, Pending, Store
from ...storage.tables import read_table
from .work import Made, Work, all_found

Shown = tuple[tuple[int, ...], ...]
"""The teacher's own prompts of a shard, in the order of its prompts."""

_Pass = tuple[pa.Table, pa.Table, TeacherFacts, TokensFacts]


@dataclass(frozen=True)
class ScoreWork:
    """Teacher signals and exact token table of one shard, from one pass over both models.

    shown: None where the teacher is shown the student's prompts.
    """

    student: Weights
    teacher: Weights
    source: Artifact
    shown: Shown | None
    settings: ScoreSettings
    made_by: str | None
    unit = "tokens"

    @property
    def size(self) -> int:
        """Return the response tokens."""
        return RolloutFacts.of(self.source).tokens

    def teacher_inputs(self) -> dict[str, Any]:
        """Return what makes the teacher signals."""
        return teacher_inputs(
            self.teacher.fingerprint,
            self.teacher.compute(),
            (self.source.key, self.source.content),
            self.shown,
            self.settings,
        )

    def tokens_inputs(self, key: str, content: str) -> dict[str, Any]:
        """Return what makes the token table over signals. key, content: theirs."""
        return _tokens_inputs(self.student, (key, content), "exact")

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return both where both are there."""
        teacher = store.find("teacher", artifact_key("teacher", self.teacher_inputs()))
        if teacher is None:
            return None
        key = artifact_key("tokens", self.tokens_inputs(teacher.key, teacher.content))
        return all_found([teacher, store.find("tokens", key)])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Score what is missing. Signals that are there already are not written again."""
        key, passed = artifact_key("teacher", self.teacher_inputs()), list[_Pass]()
        claimed: dict[str, Pending] = {}

        def score() -> _Pass:
            return score_joint(
                holder.model(self.student),
                holder.model(self.teacher),
                read_table([store.path(self.source, "rollouts")]),
                self.settings,
                teacher_prompts=own_prompts(self.source, self.shown),
                tick=tick,
                ledger=holder.ledger,
            )

        def make_teacher(draft: Draft) -> dict[str, Any]:
            passed.append(score())
            table, _, facts, _ = passed[0]
            draft.table("teacher", table, TEACHER)
            # Before the signals can be seen: who has waited for them would score the shard again.
            begun = store.begin("tokens", self.tokens_inputs(key, draft.content()), wait=False)
            if isinstance(begun, Pending):
                claimed[begun.key] = stack.enter_context(begun)
            return facts.model_copy(update={"made_by": self.made_by}).dump()

        def make_tokens(draft: Draft) -> dict[str, Any]:
            update: dict[str, Any] = {"mode": "exact"}
            if not passed:  # the table alone costs a teacher's pass, and says so
                passed.append(score())
                read = passed[0][2].teacher_tokens
                update |= {"teacher_tokens": read, "made_by": self.made_by}
            _, table, _, facts = passed[0]
            draft.table("tokens", table, TOKENS)
            return facts.model_copy(update=update).dump()

        with ExitStack() as stack:
            teacher = Made(*store.ensure("teacher", self.teacher_inputs(), make_teacher))
            inputs = self.tokens_inputs(key, teacher.artifact.content)
            mine = claimed.get(artifact_key("tokens", inputs))
            made = mine.make(make_tokens) if mine else store.ensure("tokens", inputs, make_tokens)
            tokens = Made(*made)
        if not passed:
            tick(Spared(self.size))
        return teacher, tokens

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return (self,)


@dataclass(frozen=True)
class TeacherWork:
    """Teacher signals of one shard, by the teacher alone: the embedded engine, vLLM or a server.

    reader: what scores, None for the embedded engine. student_vocabulary: rows of its head.
    """

    teacher: Weights
    reader: Reader | Served | None
    source: Artifact
    shown: Shown | None
    settings: ScoreSettings
    student_vocabulary: int
    made_by: str | None
    unit = "tokens"

    @property
    def size(self) -> int:
        """Return the response tokens."""
        return RolloutFacts.of(self.source).tokens

    def inputs(self) -> dict[str, Any]:
        """Return what makes the teacher signals."""
        origin = (self.source.key, self.source.content)
        fingerprint = self.teacher.fingerprint
        if self.reader is None:
            dtype = self.teacher.compute()
            return teacher_inputs(fingerprint, dtype, origin, self.shown, self.settings)
        dtype = self.teacher.compute(self.settings.engine)
        given_ids = isinstance(self.reader, Reader) and self.reader.given_ids
        return engine_teacher_inputs(
            fingerprint, dtype, origin, self.shown, self.settings, given_ids=given_ids
        )

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the signals where they are there."""
        return all_found([store.find("teacher", artifact_key("teacher", self.inputs()))])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Let the teacher read the shard, unless its signals are there."""

        def make(draft: Draft) -> dict[str, Any]:
            table, facts = self._score(holder, store, tick)
            draft.table("teacher", table, TEACHER)
            return facts.model_copy(update={"made_by": self.made_by}).dump()

        made = Made(*store.ensure("teacher", self.inputs(), make))
        if not made.fresh:
            tick(Spared(self.size))
        return (made,)

    def _score(self, holder: Holder, store: Store, tick: Tick) -> tuple[pa.Table, TeacherFacts]:
        rollouts = read_table([store.path(self.source, "rollouts")])
        terms: dict[str, Any] = {
            "student_vocabulary": self.student_vocabulary,
            "teacher_prompts": own_prompts(self.source, self.shown),
            "tick": tick,
        }
        if self.reader is None:
            model, terms["ledger"] = holder.model(self.teacher), holder.ledger
            return score_teacher(model, rollouts, self.settings, **terms)
        scorer = holder.scorer(self.reader)
        if isinstance(scorer, ServerScorer):
            _keep_or_compare(scorer, self.teacher, store)
        dtype = self.teacher.dtype
        return score_with_engine(scorer, rollouts, self.settings, dtype=dtype, **terms)

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        # a server computes elsewhere anyway; its key, and how much is asked at once, are known here
        return () if isinstance(self.reader, Served) else (self,)


@dataclass(frozen=True)
class TokensWork:
    """The token table of one shard over support and tail, by the student alone."""

    student: Weights
    source: Artifact
    teacher: Artifact
    settings: ScoreSettings
    unit = "tokens"

    @property
    def size(self) -> int:
        """Return the response tokens."""
        return RolloutFacts.of(self.source).tokens

    def inputs(self) -> dict[str, Any]:
        """Return what makes the token table."""
        origin = (self.teacher.key, self.teacher.content)
        return _tokens_inputs(self.student, origin, "support")

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the table where it is there."""
        return all_found([store.find("tokens", artifact_key("tokens", self.inputs()))])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Let the student read the shard, unless its table is there."""

        def make(draft: Draft) -> dict[str, Any]:
            table, facts = score_student(
                holder.model(self.student),
                read_table([store.path(self.source, "rollouts")]),
                read_table([store.path(self.teacher, "teacher")]),
                self.settings,
                tick=tick,
                ledger=holder.ledger,
            )
            draft.table("tokens", table, TOKENS)
            return facts.model_copy(update={"mode": "support"}).dump()

        made = Made(*store.ensure("tokens", self.inputs(), make))
        if not made.fresh:
            tick(Spared(self.size))
        return (made,)

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return (self,)


def own_prompts(source: Artifact, shown: Shown | None) -> dict[str, tuple[int, ...]] | None:
    """Return the teacher's own prompts by the hash of the student's, None where it has none."""
    return None if shown is None else dict(zip(source.inputs["prompts"], shown, strict=True))


def _keep_or_compare(scorer: ServerScorer, teacher: Weights, store: Store) -> None:
    """Compare a server's model with the first one that made scores under its name."""
    inputs = probe_inputs(teacher.fingerprint, teacher.dtype, len(scorer.probe))
    facts = ProbeFacts(logprobs=[float(x) for x in scorer.probe], server=scorer.settings.url)
    known, _ = store.ensure("probe", inputs, lambda _: facts.dump())
    refuse_other_model(scorer, teacher, known)


def refuse_other_model(scorer: ServerScorer, teacher: Weights, known: Artifact) -> None:
    """Raise `ModelError` where a server's model is not that of a stored probe."""
    gap = float(np.abs(scorer.probe - np.asarray(ProbeFacts.of(known).logprobs)).mean())
    if not gap <= CHECK_TOLERANCE[getattr(torch, teacher.dtype)]:
        raise ModelError(
            f"{scorer.settings.url}: {scorer.name!r} is not the model that made the scores stored "
            f"for teacher {teacher.card.folder} (log-probs of known tokens differ by {gap:.3g} "
            "nats): serve that one, or give the new one a name of its own with teacher.revision"
        )


def _tokens_inputs(student: Weights, teacher: tuple[str, str], mode: str) -> dict[str, Any]:
    flagged = student.card.flagged_ids
    return tokens_inputs(student.fingerprint, student.compute(), teacher, mode, flagged)
