"""The rollout stage of a round."""

from collections.abc import Sequence

from ...stages.holder import InVllm
from ...stages.models.weights import Weights
from ...stages.prompts.render import Prompt
from ...stages.rollout.rollout import sampling_of
from ...storage.facts import EngineGap, RolloutFacts
from ...storage.store.store import Artifact
from ..metrics import RolloutMetrics
from ..progress import Stopwatch
from ..session import Session
from ..works.rollouts import RolloutWork
from ..works.work import Made
from .generators import generator_of
from .replay import replayed
from .report import report
from .residual import check_replayed


def ensure_rollouts(session: Session, number: int, student: Weights) -> list[Artifact]:
    """Return the rollouts of a round, a shard an artifact; those of another run on replay."""
    watch, replay = Stopwatch(session.store.ledger), session.config.rollout.replay
    if replay:
        found = replayed(session, replay, number)
        check_replayed(session, found)
        made = [Made(a, fresh=False) for a in found]
    else:
        prompts = session.inputs.round_shards(number)
        made = rollout_shards(session, student, prompts, f"round {number} rollout")
    metrics = _metrics(session, number, made)
    report(
        session,
        watch,
        f"{metrics.rollouts} rollouts, {metrics.tokens:,} tokens: {metrics.generated_tokens:,} "
        f"generated, {metrics.reused_tokens:,} reused"
        + (f" (replay of {replay})" if replay else ""),
        metrics,
    )
    artifacts = [each.artifact for each in made]
    session.run.point(number, student=student.key, rollouts=[a.key for a in artifacts])
    return artifacts


def rollout_shards(
    session: Session, student: Weights, shards: Sequence[tuple[Prompt, ...]], title: str
) -> list[Made]:
    """Return the rollouts of some shards of prompts."""
    results = session.executor.map(rollout_works(session, student, shards), title)
    return [made for result in results for made in result]


def rollout_works(
    session: Session, student: Weights, shards: Sequence[tuple[Prompt, ...]]
) -> list[RolloutWork]:
    """Return what rolls out some shards of prompts: works of as many shards as a batch may span.

    On a CPU a batch stays in its shard, so that the same machine gives the same bits whatever else
    is asked for. On a GPU the embedded engine's batch takes rows of neighbouring shards; vLLM's is
    filled from what comes next.
    """
    config = session.config
    generator = generator_of(session, student, config.rollout)
    sampling = sampling_of(config.rollout, student.card.stop_ids, config.seed)
    size = 1
    if isinstance(generator, InVllm):
        size = len(shards)
    elif generator.spans:
        responses = max(map(len, shards), default=1) * config.rollout.samples
        size = max(1, generator.batch_size // responses)
    groups = [tuple(shards[start : start + size]) for start in range(0, len(shards), size)]
    return [
        RolloutWork(generator, group, config.rollout, sampling, session.run.id) for group in groups
    ]


def generated_tokens(made: Sequence[Made]) -> int:
    """Return the tokens of what was made now."""
    return sum(RolloutFacts.of(each.artifact).tokens for each in made if each.fresh)


def gap_of(made: Sequence[tuple[Made, EngineGap | None]]) -> dict[str, float]:
    """Return the measured gap of the engine that made something now, as metrics."""
    gaps = [gap for each, gap in made if each.fresh and gap is not None]
    return {f"engine_gap_{name}": value for name, value in gaps[-1].dump().items()} if gaps else {}


def _metrics(session: Session, number: int, made: Sequence[Made]) -> RolloutMetrics:
    facts = [RolloutFacts.of(each.artifact) for each in made]
    rollouts, tokens = sum(f.rollouts for f in facts), sum(f.tokens for f in facts)
    generated, own = generated_tokens(made), session.run.id
    gaps = [(each, f.engine_gap) for each, f in zip(made, facts, strict=True)]
    return RolloutMetrics.model_validate(
        {
            "round": number,
            "stage": "rollout",
            "rollouts": rollouts,
            "tokens": tokens,
            "generated_tokens": generated,
            "reused_tokens": tokens - generated,
            "own_tokens": sum(f.tokens for f in facts if f.made_by == own),
            "truncated": sum(f.truncated for f in facts) / rollouts,
            "mean_length": tokens / rollouts,
            **gap_of(gaps),
        }
    )
