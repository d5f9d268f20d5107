"""What a run would do and take: `tip run --dry-run`, from configs and manifests alone.

Nothing is written, and of weights no more is read than headers and sizes. What lies in the store is
found by the works that the run itself would have run; those of later rounds depend on students that
do not exist yet, and all depend on weights that may never have been hashed here: then the plan says
that it is not known. Estimates say what they rest on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ...stages.models.weights import Weights
from ...storage.facts import RolloutFacts, TeacherFacts
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact
from ..checks import check_inputs
from ..rounds.branching import view_of_branch
from ..rounds.identity import check, check_rule
from ..rounds.replay import replayed
from ..rounds.rollouts import rollout_works
from ..rounds.scores import teacher_works
from ..session import Session
from .disk import Merge, WeightsOnDisk, merges, weights_on_disk
from .memory import memory_of
from .needs import Need
from .sizes import sizes_of
from .target import Target, here
from .ways import Way, ways

# Where the store says nothing: entries a token and bytes an entry, of the SmolLM2 pair; a row of
# the narrow table; a token and its top ids in `rollouts`.
_ENTRY_BYTES, _ENTRIES, _TOKEN_BYTES, _ROLLOUT_BYTES = 3.0, 110, 48, 200
_SINGLE_ROUNDS = 100  # beyond the last that has begun
_KNOWN_SHARDS = 64  # manifests read for lengths and sizes


@dataclass(frozen=True)
class RoundPlan:
    """One round: what it takes, and how much of it is in the store. Tokens are estimates.

    cached_rollouts, cached_scores: shards that are there, None where that is not known.
    """

    number: int
    shards: int
    rollouts: int
    tokens: int
    teacher_tokens: int
    bytes: int
    cached_rollouts: int | None
    cached_scores: int | None
    trained: bool
    rounds: int = 1
    """Rounds that this line tells of together, from `number` on."""

    def missing(self, total: int, cached: int | None) -> int:
        """Return what of a total is still to be made, by the share of shards that are there."""
        if cached is None and self.trained:
            return 0
        return round(total * (1 - (cached or 0) / self.shards))


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    response_tokens, basis: expected tokens of a response, and what that rests on. target: the
    device that memory is planned for. ways: what to change, by stage, where one does not fit there.
    unhashed: roles whose weights were never hashed here, so that what is stored of them is not
    known. prompt: ids and tokens of the first prompt; none in a replay. weights: None where their
    size is not known. merges: adapters that the run merges over their bases first.
    """

    rounds: list[RoundPlan]
    response_tokens: float
    basis: str
    memory: list[Need]
    target: Target
    ways: dict[str, list[Way]]
    unhashed: tuple[str, ...]
    prompt: tuple[tuple[int, str], ...] = ()
    weights: WeightsOnDisk | None = None
    merges: tuple[Merge, ...] = ()

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


def plan_of(session: Session, origin: str | None = None, target: Target | None = None) -> Plan:
    """Return what a run would do. origin: `RUN@N` where it would branch off.

    session: one that only looks. target: the device that memory is planned for, None: the one that
    is here, which then must have what the config asks for. Raises `ConfigError` where the run
    itself would be refused.
    """
    if origin and session.run.branch() is None:
        session = view_of_branch(session, origin)
    if target is None:
        check(session)
    else:
        check_rule(session.config)
        check_inputs(session.inputs, elsewhere=True)
    return planned(session, target)


def planned(session: Session, target: Target | None = None) -> Plan:
    """Return what a run would do that was shown to be one that can be played."""
    target = target or here(session.device)
    known = _known(session)
    length, basis = _response_tokens(session, known)
    entry_bytes = _bytes_a_token(known)
    first, end = session.run.first_round, session.config.rounds
    begun = max((number for number, _ in session.run.rounds()), default=0)
    single = min(end, max(first, begun) + _SINGLE_ROUNDS)
    single = end if session.config.rollout.replay else single  # all that it replays is known
    rounds = [_round_plan(session, n, length, entry_bytes) for n in range(first, single)]
    if single < end:
        rounds.append(_many(rounds[-_SINGLE_ROUNDS:], single, end - single))
    cards = {"student": session.inputs.student_card, "teacher": session.inputs.teacher_card}
    unhashed = tuple(role for role, card in cards.items() if not card.fingerprint)
    prompt, config, sizes = _first_prompt(session), session.config, sizes_of(session)
    untrained = sum(line.rounds for line in rounds if not line.trained)
    weights = weights_on_disk(session, sizes, untrained)
    memory = memory_of(config, sizes, target)
    short = [need for need in memory if need.fits(target) is False and need.least is not None]
    out = {need.stage: ways(config, sizes, target, need) for need in short}
    own = tuple(merges(session))
    return Plan(rounds, length, basis, memory, target, out, unhashed, prompt, weights, own)


def _first_prompt(session: Session) -> tuple[tuple[int, str], ...]:
    if session.config.rollout.replay:
        return ()
    tokenizer = session.inputs.student_card.tokenizer
    return tuple((i, tokenizer.decode([i])) for i in session.inputs.prompts[0].ids)


def _round_plan(session: Session, number: int, length: float, entry_bytes: float) -> RoundPlan:
    config = session.config
    if config.rollout.replay:
        return _replay_plan(session, number)
    shards = session.inputs.round_shards(number)
    prompts = [prompt for shard in shards for prompt in shard]
    count = len(prompts) * config.rollout.samples
    tokens = round(count * length)
    asked = sum(len(p.ids) for p in prompts) * config.rollout.samples
    rollouts, scores = _cached(session, number)
    return RoundPlan(
        number,
        len(shards),
        count,
        tokens,
        tokens + asked,
        round(tokens * entry_bytes),
        rollouts,
        scores,
        _is_trained(session, number),
    )


def _many(like: list[RoundPlan], number: int, rounds: int) -> RoundPlan:
    """Return the line of rounds so far off that the mean of others is as good."""

    def total(name: str) -> int:
        return round(rounds * sum(getattr(line, name) for line in like) / len(like))

    return RoundPlan(
        number,
        total("shards"),
        total("rollouts"),
        total("tokens"),
        total("teacher_tokens"),
        total("bytes"),
        None,
        None,
        trained=False,
        rounds=rounds,
    )


def _replay_plan(session: Session, number: int) -> RoundPlan:
    """Return the plan of a round that another run has rolled out: all its numbers are known."""
    rollouts = replayed(session, str(session.config.rollout.replay), number)
    facts = [RolloutFacts.of(a) for a in rollouts]
    scores = _scored(session, rollouts)
    tokens = sum(f.tokens for f in facts)
    whole = scores is not None and len(scores) == len(rollouts)
    read = sum(TeacherFacts.of(a).teacher_tokens for a in scores or ())
    return RoundPlan(
        number,
        len(rollouts),
        sum(f.rollouts for f in facts),
        tokens,
        read if whole else tokens,
        sum(a.bytes for a in (*rollouts, *(scores or ()))),
        len(rollouts),
        None if scores is None else len(scores),
        _is_trained(session, number),
    )


def _cached(session: Session, number: int) -> tuple[int | None, int | None]:
    """Return how many shards of rollouts and of scores are there; None where keys are unknown."""
    student = _student(session, number)
    if student is None or not student.fingerprint:
        return None, None
    found = []
    for work in rollout_works(session, student, session.inputs.round_shards(number)):
        keys = [artifact_key("rollouts", work.inputs(n)) for n in range(len(work.shards))]
        found += [a for key in keys if (a := session.store.find("rollouts", key)) is not None]
    scores = _scored(session, found)
    return len(found), None if scores is None else len(scores)


def _scored(session: Session, rollouts: list[Artifact]) -> list[Artifact] | None:
    """Return the teacher signals that are there; None where the teacher's weights are unknown."""
    if not session.inputs.teacher_card.fingerprint:
        return None
    found = [work.found(session.store) for work in teacher_works(session, rollouts)]
    return [made[0].artifact for made in found if made is not None]


def _known(session: Session) -> dict[str, list[Artifact]]:
    """Return shards of the store that tell of lengths and sizes: this run's, else anybody's."""
    store, found = session.store, {}
    pointers = [p for _, p in session.run.rounds()]
    for kind in ("rollouts", "teacher", "tokens"):
        keys = [key for p in pointers for key in p.of(kind)][-_KNOWN_SHARDS:]
        own = [a for key in keys if (a := store.find(kind, key)) is not None]
        found[kind] = own or _first(store.list(kind, damaged=[]), _KNOWN_SHARDS)
    return found


def _first(artifacts: Iterable[Artifact], most: int) -> list[Artifact]:
    return [a for a, _ in zip(artifacts, range(most), strict=False)]


def _response_tokens(session: Session, known: dict[str, list[Artifact]]) -> tuple[float, str]:
    """Return the expected tokens of a response, and where that comes from."""
    most = session.config.rollout.max_tokens
    like = [RolloutFacts.of(a) for a in known["rollouts"] if a.inputs.get("max_tokens") == most]
    rollouts = sum(f.rollouts for f in like)
    if not rollouts:
        return float(most), "the longest allowed (nothing like it in the store yet)"
    return sum(f.tokens for f in like) / rollouts, f"the mean of {len(like)} stored shards"


def _bytes_a_token(known: dict[str, list[Artifact]]) -> float:
    """Return the bytes that a response token takes in the store, all tables together."""
    usual = {
        "rollouts": _ROLLOUT_BYTES,
        "teacher": _ENTRIES * _ENTRY_BYTES,
        "tokens": _TOKEN_BYTES,
    }
    total = 0.0
    for kind, guess in usual.items():
        tokens = sum(_tokens_of(a) for a in known[kind])
        total += sum(a.bytes for a in known[kind]) / tokens if tokens else guess
    return total


def _tokens_of(artifact: Artifact) -> int:
    """Return the response tokens of a shard; tables of tokens have a row each."""
    return RolloutFacts.of(artifact).tokens if artifact.kind == "rollouts" else artifact.rows


def _student(session: Session, number: int) -> Weights | None:
    if number and not _is_trained(session, number - 1):
        return None
    return session.student(number)


def _is_trained(session: Session, number: int) -> bool:
    pointers = session.run.round(number)
    key = None if pointers is None else pointers.checkpoint
    return key is not None and session.store.find("checkpoint", key) is not None
