"""What a round's training adds up to, and the facts that a checkpoint keeps of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...storage.facts import CheckpointFacts, ClipFacts, ResidualFacts
from ..signals.objective import OF_CLIP
from ..signals.residual import TOLD
from .drift import Drift


@dataclass
class Totals:
    """What a round's training adds up to; part of every snapshot, so a resumed round is whole.

    losses: one a step, None where the step moved nothing. mass: the student's, summed over tokens,
    as is what is told of the residual (`TOLD`) and of the limit of a token (`OF_CLIP`).
    """

    step: int = 0
    trained_tokens: int = 0
    body_tokens: int = 0
    loss: float = 0.0
    weight: float = 0.0
    mass: float = 0.0
    residual: list[float] = field(default_factory=list)
    clip: list[float] = field(default_factory=list)
    grad_norm: float = 0.0
    compile_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    losses: list[float | None] = field(default_factory=list)

    def add(
        self, loss: float, denominator: float, tokens: int, told: Mapping[str, float], norm: float
    ) -> None:
        """Count a step that moved the student. told: sums over its tokens, see `accumulate`."""
        self.trained_tokens += tokens
        self.loss += loss * denominator
        self.weight += denominator
        self.mass += told["mass"]
        self.residual = _added(self.residual, told, TOLD)
        self.clip = _added(self.clip, told, OF_CLIP)
        self.grad_norm = max(self.grad_norm, norm)
        self.skipped_in_a_row = 0
        self.losses.append(loss)

    def facts(self, rate: float, moved: Drift) -> CheckpointFacts:
        """Return what a checkpoint's manifest says of its training; its fingerprint is still open.

        rate: learning rate of the last step. moved: how far the student moved on its rollouts.
        """
        return CheckpointFacts(
            fingerprint="",
            steps=self.step,
            trained_tokens=self.trained_tokens,
            body_tokens=self.body_tokens,
            loss=self.loss / max(self.weight, 1e-30),
            losses=self.losses,
            student_mass=self.mass / max(self.trained_tokens, 1),
            residual=self._residual(),
            clip=self._clip(),
            largest_gradient=self.grad_norm,
            compile_seconds=self.compile_seconds or None,
            skipped=self.skipped,
            learning_rate=rate,
            staleness=moved.staleness,
            drift_selected=moved.selected,
            drift_unselected=moved.unselected,
        )

    def _residual(self) -> ResidualFacts | None:
        if not self.residual:
            return None
        told = dict(zip(TOLD, self.residual, strict=True))
        return ResidualFacts(
            outside=told["outside"] / self.trained_tokens,
            clipped=told["clipped"] / self.trained_tokens,
            clipped_off=told["clipped_off"] / max(told["size"] + told["clipped_off"], 1e-300),
            nats=told["nats"] / self.trained_tokens,
        )

    def _clip(self) -> ClipFacts | None:
        if not self.clip:
            return None
        over, cut = (value / self.trained_tokens for value in self.clip)
        return ClipFacts(tokens=over, nats=cut)


def _added(before: list[float], told: Mapping[str, float], names: tuple[str, ...]) -> list[float]:
    """Return sums with those of one step more, nothing where it tells none of them."""
    now = [told[name] for name in names if name in told]
    return [a + b for a, b in zip(before or [0.0] * len(now), now, strict=True)]
