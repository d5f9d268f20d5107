"""What a student is worth on problems that it is not trained on: divergences to the teacher.

Fresh rollouts of the problems are scored as a round's are, and are artifacts like those.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...stages.models.weights import Weights
from ...stages.prompts.order import shards
from ...stages.prompts.render import Prompt
from ...stages.score.agreement import agreement
from ...storage.store.store import Artifact
from ...storage.tables import read_table
from ..config.run import RunConfig
from ..session import Session
from .rollouts import generated_tokens, rollout_shards
from .scores import Scores, mean_over_tokens, score_shards


def held_out(session: Session, number: int, student: Weights) -> dict[str, Any]:
    """Return the means over the tokens of fresh rollouts of the problems, and what they cost.

    reverse_kl, forward_kl, jsd: nats. agreement: 0..1, None where first choices are not known.
    """
    chosen = first_choices(session.config)
    title = f"round {number} evaluate"
    problems: Sequence[Sequence[Prompt]] = shards(session.inputs.problems)
    made = rollout_shards(session, student, [tuple(part) for part in problems], title)
    rollouts = [each.artifact for each in made]
    scores = score_shards(session, student, rollouts, title)
    return {
        "reverse_kl": mean_over_tokens(scores.tokens, "reverse_kl"),
        **_column_means(session, scores.tokens, ("forward_kl", "jsd")),
        "agreement": _agreement(session, rollouts, scores) if chosen else None,
        "generated_tokens": generated_tokens(made),
        "teacher_tokens_scored": scores.scored,
    }


def first_choices(config: RunConfig) -> bool:
    """Tell whether the stored tables say what each model would choose first.

    Of ids that were drawn nobody can tell which is the teacher's; the student's is a top id.
    """
    return config.score.support == "top" and config.rollout.student_top_max > 0


def _column_means(
    session: Session, tokens: Sequence[Artifact], names: Sequence[str]
) -> dict[str, float]:
    """Return means of columns of the token table."""
    paths = [session.store.path(artifact, "tokens") for artifact in tokens]
    table = read_table(paths, names)
    return {name: float(np.mean(table[name].to_numpy(), dtype=np.float64)) for name in names}


def _agreement(session: Session, rollouts: Sequence[Artifact], scores: Scores) -> float:
    def read(artifact: Artifact, kind: str, columns: Sequence[str]) -> Any:
        return read_table([session.store.path(artifact, kind)], columns)

    agreed = [
        agreement(
            read(source, "rollouts", ("top_ids", "top_counts")),
            read(signals, "teacher", ("ids", "logprobs")),
        )
        for source, signals in zip(rollouts, scores.teacher, strict=True)
    ]
    return float(np.concatenate(agreed).mean())
