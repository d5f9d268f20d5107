"""What a run would do and take: `tip run --dry-run`, from configs and manifests alone.

Nothing is written and no weights are read beyond their headers. What lies in the store is found by
the keys that the run itself would ask for; those of later rounds depend on students that do not
exist yet, so they count as to be made. Estimates say what they rest on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...stages.prompts.order import shards
from ...stages.prompts.render import Prompt
from ...stages.rollout.rollout import rollout_inputs, sampling_of
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Store
from ..engines import compute_of
from ..rounds.branching import BranchView
from ..rounds.identity import check
from ..rounds.separate import Teacher
from ..rounds.steps import replayed
from ..session import Session, Student
from .memory import memory_of

# Where the store says nothing: entries a token and bytes an entry, of the SmolLM2 pair; a row of
# the narrow table; a token and its top ids in `rollouts`.
_ENTRY_BYTES, _ENTRIES, _TOKEN_BYTES, _ROLLOUT_BYTES = 3.0, 110, 48, 200
_KNOWN_SHARDS = 64  # manifests read for lengths and sizes


@dataclass(frozen=True)
class RoundPlan:
    """One round: what it takes, and how much of it is in the store. Tokens are estimates."""

    number: int
    shards: int
    rollouts: int
    tokens: int
    teacher_tokens: int
    bytes: int
    cached_rollouts: int | None
    cached_scores: int | None
    trained: bool

    def missing(self, total: int, cached: int | None) -> int:
        """Return what of a total is still to be made, by the share of shards that are there."""
        return round(total * (1 - (cached or 0) / self.shards))


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    rounds: list[RoundPlan]
    response_tokens: float
    basis: str
    memory: list[tuple[str, str, float]]

    @property
    def tokens(self) -> int:
        """Return the tokens still to be generated."""
        return sum(r.missing(r.tokens, r.cached_rollouts) for r in self.rounds)

    @property
    def teacher_tokens(self) -> int:
        """Return the tokens that the teacher is still to read."""
        return sum(r.missing(r.teacher_tokens, r.cached_scores) for r in self.rounds)

    @property
    def bytes(self) -> int:
        """Return the bytes still to be written."""
        return sum(r.missing(r.bytes, r.cached_scores) for r in self.rounds)


def make_plan(session: Session, store: Store | None) -> Plan:
    """Return the plan of a run. store: None where there is none yet."""
    config = session.config
    known = _known(store, session)
    length, basis = _response_tokens(session, known)
    entry_bytes = _bytes_a_token(known)
    rounds = [
        _round_plan(session, store, number, length, entry_bytes)
        for number in range(session.run.first_round, config.rounds)
    ]
    return Plan(rounds, length, basis, memory_of(session))


def _round_plan(
    session: Session, store: Store | None, number: int, length: float, entry_bytes: float
) -> RoundPlan:
    config = session.config
    if store is not None and config.rollout.replay:
        return _replay_plan(session, store, number)
    prompts = session.round_prompts(number)
    count = len(prompts) * config.rollout.samples
    tokens = round(count * length)
    asked = sum(len(p.ids) for p in prompts) * config.rollout.samples
    rollouts, scores = _cached(session, store, number, prompts)
    return RoundPlan(
        number,
        len([*shards(prompts)]),
        count,
        tokens,
        tokens + asked,
        round(tokens * entry_bytes),
        rollouts,
        scores,
        _is_trained(session, store, number),
    )


def _replay_plan(session: Session, store: Store, number: int) -> RoundPlan:
    """Return the plan of a round that another run has rolled out: all its numbers are known."""
    rollouts = replayed(session, str(session.config.rollout.replay), number)
    teacher = Teacher(session)
    keys = [artifact_key("teacher", teacher.inputs(source)) for source in rollouts]
    scores = [found for key in keys if (found := store.find("teacher", key))]
    tokens = sum(a.facts["tokens"] for a in rollouts)
    return RoundPlan(
        number,
        len(rollouts),
        sum(a.facts["rollouts"] for a in rollouts),
        tokens,
        sum(a.facts["teacher_tokens"] for a in scores) if len(scores) == len(rollouts) else tokens,
        sum(a.bytes for a in (*rollouts, *scores)),
        len(rollouts),
        len(scores),
        _is_trained(session, store, number),
    )


def _known(store: Store | None, session: Session) -> dict[str, list[Artifact]]:
    """Return shards of the store that tell of lengths and sizes: this run's, else anybody's."""
    if store is None:
        return {}
    found: dict[str, list[Artifact]] = {}
    pointers = [p for _, p in session.run.rounds()]
    for kind in ("rollouts", "teacher", "tokens"):
        keys = [key for p in pointers for key in p.get(kind, [])][-_KNOWN_SHARDS:]
        own = [a for key in keys if (a := store.find(kind, key)) is not None]
        found[kind] = own or _first(store.list(kind, damaged=[]), _KNOWN_SHARDS)
    return found


def _first(artifacts: Iterable[Artifact], most: int) -> list[Artifact]:
    return [a for a, _ in zip(artifacts, range(most), strict=False)]


def _response_tokens(session: Session, known: dict[str, list[Artifact]]) -> tuple[float, str]:
    """Return the expected tokens of a response, and where that comes from."""
    most = session.config.rollout.max_tokens
    like = [
        a
        for a in known.get("rollouts", [])
        if a.inputs.get("max_tokens") == most and a.facts["rollouts"]
    ]
    if not like:
        return float(most), "the longest allowed (nothing like it in the store yet)"
    mean = sum(a.facts["tokens"] for a in like) / sum(a.facts["rollouts"] for a in like)
    return mean, f"the mean of {len(like)} stored shards"


def _bytes_a_token(known: dict[str, list[Artifact]]) -> float:
    """Return the bytes that a response token takes in the store, all tables together."""
    usual = {
        "rollouts": _ROLLOUT_BYTES,
        "teacher": _ENTRIES * _ENTRY_BYTES,
        "tokens": _TOKEN_BYTES,
    }
    total = 0.0
    for kind, guess in usual.items():
        artifacts = known.get(kind, [])
        tokens = sum(_tokens_of(a) for a in artifacts)
        total += sum(a.bytes for a in artifacts) / tokens if tokens else guess
    return total


def _tokens_of(artifact: Artifact) -> int:
    return artifact.facts.get("tokens") or sum(p.rows or 0 for p in artifact.parts.values())


def _cached(
    session: Session, store: Store | None, number: int, prompts: Sequence[Prompt]
) -> tuple[int | None, int | None]:
    """Return how many shards of rollouts and of scores are there; None where keys are unknown."""
    if store is None:
        return 0, 0
    student = _student(session, store, number)
    if student is None:
        return None, None
    config = session.config
    sampling = sampling_of(config.rollout, session.student_card.stop_ids, config.seed)
    dtype = compute_of(session, student.settings, config.rollout.engine)
    teacher, found, scored = Teacher(session), 0, 0
    for part in shards(prompts):
        inputs = rollout_inputs(student.fingerprint, dtype, part, config.rollout, sampling)
        rollouts = store.find("rollouts", artifact_key("rollouts", inputs))
        if rollouts is not None:
            key = artifact_key("teacher", teacher.inputs(rollouts))
            found, scored = found + 1, scored + (store.find("teacher", key) is not None)
    return found, scored


def _student(session: Session, store: Store, number: int) -> Student | None:
    if number and not _is_trained(session, store, number - 1):
        return None
    return session.student(number)


def _is_trained(session: Session, store: Store | None, number: int) -> bool:
    key = (session.run.round(number) or {}).get("checkpoint")
    return bool(store and key and store.find("checkpoint", key))


def plan_of(session: Session, origin: str | None = None) -> Plan:
    """Return what a run would do; nothing is written. origin: `RUN@N` where it would branch off.

    Raises `ConfigError` where the run itself would be refused.
    """
    if origin and session.run.branch() is None:
        session.run = BranchView(session.config, origin)
    check(session)
    return make_plan(session, session.store_if_there())
