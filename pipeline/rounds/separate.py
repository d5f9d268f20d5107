"""Separate scoring through the store: all shards with the teacher, then all with the student.

So each model is loaded once a round, and never both. What the transformers engine makes of the
teacher has the key it has in joint mode: the numbers are the same, and either mode finds them.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ...stages.engines.protocols import Scorer, Tick
from ...stages.engines.server.scorer import PROBE_TOKENS, ServerScorer
from ...stages.engines.vllm.scorer import VllmScorer
from ...stages.score.checks import CHECK_TOLERANCE
from ...stages.score.engine import score_with_engine
from ...stages.score.keys import engine_teacher_inputs, teacher_inputs, tokens_inputs
from ...stages.score.separate import score_student, score_teacher
from ...storage.columns import TEACHER, TOKENS
from ...storage.errors import ModelError
from ...storage.store.store import Artifact, Draft
from ...storage.tables import read_table
from ..engines import compute_of, dtype_of
from ..session import Session, Student

PROBE_VERSION = 1


def score_separately(
    session: Session, student: Student, rollouts: list[Artifact], title: str
) -> tuple[list[Artifact], list[Artifact], int]:
    """Return teacher signals and token tables of some shards, and the tokens the teacher read."""
    total = sum(a.facts["tokens"] for a in rollouts)
    teacher = Teacher(session)
    signals, scored = [], 0
    with session.reporter.bar(f"{title} (teacher)", total, "tokens") as tick:
        for source in rollouts:
            artifact, fresh = teacher.ensure(source, tick)
            signals.append(artifact)
            if fresh:
                scored += artifact.facts["teacher_tokens"]
            else:
                tick(source.facts["tokens"])
    session.release("teacher")
    with session.reporter.bar(f"{title} (student)", total, "tokens") as tick:
        tables = [
            _tokens(session, student, source, artifact, tick)
            for source, artifact in zip(rollouts, signals, strict=True)
        ]
    return signals, tables, scored


class Teacher:
    """The teacher's pass over shards of rollouts, by the engine of the config."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._settings = session.config.score
        dtype = dtype_of(session, session.config.teacher, self._settings.engine)
        self._dtype = str(dtype).removeprefix("torch.")
        self._tolerance = CHECK_TOLERANCE[dtype]

    def ensure(self, source: Artifact, tick: Tick) -> tuple[Artifact, bool]:
        """Return the teacher signals of a shard, and whether they were made now."""
        return self._session.store.ensure(
            "teacher", self.inputs(source), lambda d: self._make(d, source, tick)
        )

    def inputs(self, source: Artifact) -> dict[str, Any]:
        """Return what makes the teacher signals of a shard, in either mode."""
        session, settings = self._session, self._settings
        shown = session.shown_prompts(source)
        fingerprint = session.teacher_card.fingerprint
        origin = (source.key, source.content)
        if settings.engine == "transformers":
            dtype = str(session.dtype(session.config.teacher))
            return teacher_inputs(fingerprint, dtype, origin, shown, settings)
        dtype = compute_of(session, session.config.teacher, settings.engine)
        return engine_teacher_inputs(
            fingerprint, dtype, origin, shown, settings, given_ids=self._asks_ids
        )

    def _make(self, draft: Draft, source: Artifact, tick: Tick) -> dict[str, Any]:
        session, settings = self._session, self._settings
        rollouts = read_table([session.store.path(source, "rollouts")])
        terms: dict[str, Any] = {
            "student_vocabulary": session.student_card.head_rows,
            "teacher_prompts": session.teacher_prompts(),
            "tick": tick,
        }
        if settings.engine == "transformers":
            session.release("student")
            model = session.model("teacher", session.config.teacher)
            table, facts = score_teacher(model, rollouts, settings, **terms)
        else:
            table, facts = score_with_engine(
                self._scorer, rollouts, settings, dtype=self._dtype, **terms
            )
        draft.table("teacher", table, TEACHER)
        return facts | {"made_by": session.run.id}

    @property
    def _asks_ids(self) -> bool:
        """Return whether keys say that the engine is asked for the student's ids."""
        return self._settings.engine == "vllm" and self._session.device.type == "cuda"

    @cached_property
    def _scorer(self) -> Scorer:
        """Return the engine, started when the first shard needs it."""
        session, settings = self._session, self._settings
        needed = self._longest()
        if settings.engine == "server":
            return self._server(needed)
        # a row of given ids may be as wide as the student's part of the support
        start = self._start(
            needed, max(settings.engine_top, session.config.rollout.student_top_max)
        )
        scorer = VllmScorer(start, session.reporter.say)
        self._refuse_other_runner(scorer)
        if not scorer.given_ids:
            session.reporter.say(
                "note: this vLLM cannot be asked for given ids (its V2 runner can): the student's "
                f"ids are kept where they are among the teacher's top "
                f"{min(settings.engine_top, scorer.vocabulary)}"
            )
        return scorer

    def _start(self, needed: int, top: int) -> Callable[[int | None], Any]:
        session = self._session
        return lambda batch: session.engines.scoring(session.config.teacher, needed, top, batch)

    def _refuse_other_runner(self, scorer: Scorer) -> None:
        """Raise `ModelError` where vLLM was given another runner than the one that keys stand for.

        Of a GPU they say that it is asked for the student's ids, of a CPU that it is not.
        """
        if scorer.given_ids == self._asks_ids:
            return
        if self._asks_ids:
            raise ModelError(
                "teacher: this vLLM runs its V1 model runner, which cannot be asked for the "
                "student's ids: set VLLM_USE_V2_MODEL_RUNNER=1 in the environment, or score.engine "
                "= 'transformers'"
            )
        raise ModelError(
            "teacher: this vLLM runs its V2 model runner, which is not what scores on a CPU are "
            "stored for: take VLLM_USE_V2_MODEL_RUNNER out of the environment"
        )

    def _server(self, needed: int) -> ServerScorer:
        session = self._session
        server = session.config.teacher.server
        assert server is not None  # the config says so
        scorer = ServerScorer(
            server,
            session.teacher_card,
            needed=needed,
            top=self._settings.engine_top,
            tolerance=self._tolerance,
            say=session.reporter.say,
        )
        self._refuse_other_model(scorer)
        return scorer

    def _refuse_other_model(self, scorer: ServerScorer) -> None:
        """Compare a server's model with the one that made the scores stored under its name."""
        session = self._session
        fingerprint = session.teacher_card.fingerprint
        inputs = {
            "version": PROBE_VERSION,
            "teacher": fingerprint,
            "dtype": self._dtype,
            "tokens": [PROBE_TOKENS, len(scorer.probe)],
        }
        facts = {"logprobs": [float(x) for x in scorer.probe], "server": scorer.settings.url}
        known, _ = session.store.ensure("probe", inputs, lambda _: facts)
        gap = float(np.abs(scorer.probe - np.asarray(known.facts["logprobs"])).mean())
        if not gap <= self._tolerance:
            raise ModelError(
                f"{scorer.settings.url}: {scorer.name!r} is not the model that made the scores "
                f"stored for teacher.model = {session.config.teacher.model!r} (log-probs of "
                f"known tokens differ by {gap:.3g} nats): serve that one, or give the new one a "
                "name of its own with teacher.revision"
            )

    def _longest(self) -> int:
        """Return the tokens of the longest teacher's prompt with its response."""
        session = self._session
        prompts = session.teacher_prompts()
        if prompts is None:
            longest = max(len(p.ids) for p in session.prompts)
        else:
            longest = max(len(ids) for ids in prompts.values())
        if session.config.evaluate:
            longest = max(longest, *(len(p.ids) for p in session.problems))
        return longest + session.config.rollout.max_tokens


def _tokens(
    session: Session, student: Student, source: Artifact, teacher: Artifact, tick: Tick
) -> Artifact:
    """Return the token table of a shard, over support and tail."""

    def make(draft: Draft) -> dict[str, Any]:
        store = session.store
        table, facts = score_student(
            session.model("student", student.settings),
            read_table([store.path(source, "rollouts")]),
            read_table([store.path(teacher, "teacher")]),
            session.config.score,
            tick=tick,
        )
        draft.table("tokens", table, TOKENS)
        return facts | {"mode": "support"}

    dtype = str(session.dtype(student.settings))
    inputs = tokens_inputs(student.fingerprint, dtype, (teacher.key, teacher.content), "support")
    artifact, fresh = session.store.ensure("tokens", inputs, make)
    if not fresh:
        tick(source.facts["tokens"])
    return artifact
