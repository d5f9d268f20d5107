"""Every fact of every artifact, declared once: what a manifest says beside what made it.

Facts decide no key. They are written by the stage that made an artifact and read back here, by
name and type, whatever version wrote them: fields that a class does not know are passed over, and a
fact that an older writer did not keep is None.
"""

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import StoreError

if TYPE_CHECKING:
    from .store.artifacts import Artifact


class Facts(BaseModel):
    """Base of the facts of one kind of artifact."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    @classmethod
    def of(cls, artifact: "Artifact") -> Self:
        """Return the facts in a manifest. Raises `StoreError` where one is missing or wrong."""
        try:
            return cls.model_validate(artifact.facts)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            raise StoreError(
                f"{artifact.kind} {artifact.key}: its manifest's fact {where} is unusable "
                f"({first['msg']}); remove its folder and run again: it is made anew"
            ) from error

    def dump(self) -> dict[str, Any]:
        """Return what goes into a manifest: all that is known."""
        return self.model_dump(mode="json", exclude_none=True)


class EngineGap(Facts):
    """How far an engine's log-probs are from the embedded engine's, over the same tokens."""

    mean: float
    """Mean of the absolute differences, nats."""
    rms: float
    """Root of their mean square, nats."""
    tokens: int
    """Tokens compared."""


class RolloutFacts(Facts):
    """A shard of rollouts."""

    rollouts: int
    tokens: int
    """Response tokens."""
    truncated: int
    """Rollouts that the length limit ended."""
    made_by: str | None = None
    """Identity of the run that made it."""
    engine_gap: EngineGap | None = None
    """Of the engine that generated it; None for the embedded one, or where it was not measured."""


class TeacherFacts(Facts):
    """A shard of teacher signals."""

    teacher_tokens: int
    """Tokens that the teacher read, prompts included."""
    entries: int
    """Support ids of all its tokens."""
    teacher_check_gap: float | None = None
    """Nats: largest mean gap of a rollout that was scored again alone."""
    given_ids: bool | None = None
    """Whether the engine was asked for the student's ids; None for the embedded one."""
    made_by: str | None = None
    """Identity of the run that made it."""


class TokensFacts(Facts):
    """A shard of the token table; means over its tokens."""

    tokens: int
    mode: str = "exact"
    """`exact`: over the whole vocabulary. `support`: over support and tail."""
    reverse_kl: float
    """Nats."""
    student_mass: float
    """The student's probability on the support."""
    teacher_mass: float
    """The teacher's probability on the support."""
    sampling_gap_rms: float
    """Nats: root mean square of this student's log-probs less those kept while sampling."""
    off_policy_kl: float
    """Nats: KL(student that sampled || this one), 0 up to rounding unless it was replayed."""
    student_check_gap: float | None = None
    """Nats: largest mean gap of a rollout that was scored again alone."""
    lost_mass: float | None = None
    """The student's probability on those of its top ids that the support lacks."""
    teacher_tokens: int | None = None
    """Tokens that the teacher read for this table alone, its signals being there already."""
    made_by: str | None = None
    """Identity of the run that made it."""


class SelectionFacts(Facts):
    """A round's selection; see `stages/select`."""

    trainable: int
    kept: int
    kept_reverse_kl: float
    """Share of all reverse KL that is kept."""
    selected_reverse_kl: float
    """Nats: mean over the tokens that are trained on."""
    unselected_reverse_kl: float
    """Nats: mean over the others."""
    types: dict[str, dict[str, float]]
    """Each type's share of the trainable and of the kept tokens, and of their reverse KL."""
    rule: str
    sql: str
    """The rule's whole file."""
    keep: float | None = None
    """The share; None: `count` decides."""
    count: int | None = None
    """Tokens of each scope; None: `keep` is the share."""
    cuts: dict[str, float]
    round: dict[str, float | None]
    """The rule's numbers of the round."""
    zeros: int | None = None
    """Kept tokens whose importance is 0."""
    losses: dict[str, int] = {}
    """Kept tokens by the loss that they name; those that name none are not among them."""
    seconds: float


class ResidualFacts(Facts):
    """What the sampled tokens gave to a round's loss beside support and tail."""

    outside: float
    """Share of the tokens trained on that were sampled outside the support's own ids."""
    clipped: float
    """Share of them whose ratio of probabilities was above the cap."""
    clipped_off: float
    """Share of the summed size of all residuals that the cap took off."""
    nats: float
    """What the residuals add to the loss, a token."""


class ClipFacts(Facts):
    """What the limit of a token's divergence took off a round's loss."""

    tokens: float
    """Share of the tokens trained on whose divergence was above it."""
    nats: float
    """What it took off the loss, a token."""


class CheckpointFacts(Facts):
    """A round's training and the student that came of it."""

    fingerprint: str
    """Of the exported folder, as `model_fingerprint` gives it."""
    steps: int
    trained_tokens: int
    body_tokens: int
    """Ids that the student's body read."""
    loss: float
    """Nats: mean over the round, weighted as in training."""
    losses: list[float | None]
    """Of each step, None where it moved nothing."""
    student_mass: float
    """The live student's mean probability on the stored supports; with a residual, on what of them
    does not depend on the sampled token."""
    residual: ResidualFacts | None = None
    """None for a training without."""
    clip: ClipFacts | None = None
    """None for a training without."""
    largest_gradient: float
    compile_seconds: float | None = None
    """Spent compiling layers; None where none were."""
    skipped: int
    """Steps skipped, since loss or gradient were not finite."""
    learning_rate: float
    """Of the last step."""
    staleness: float | None = None
    """Nats: KL(student before || after) on the round's tokens."""
    drift_selected: float | None = None
    drift_unselected: float | None = None
    reload_gap: float | None = None
    """Largest difference of logits between the student and its export, read back in float32."""
    probe: dict[str, list[float]] | None = None
    """Log-probs of known tokens by key of the sequences: what another engine is held against."""


class EvaluationFacts(Facts):
    """A shard of answers to problems."""

    problems: int
    made_by: str | None = None
    """Identity of the run that made it."""
    engine_gap: EngineGap | None = None
    """Of the engine that answered; None for the embedded one, or where it was not measured."""


class MergedFacts(Facts):
    """An adapter merged over its base."""

    fingerprint: str
    """By which keys know the merged model: of the base's content and the adapter's."""


class ProbeFacts(Facts):
    """Log-probs of known tokens, by which a model is known again."""

    logprobs: list[float]
    """Nats."""
    server: str | None = None
    """Address of the server that gave them."""
