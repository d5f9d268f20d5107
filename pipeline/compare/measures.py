"""What a comparison judges: a number of the last evaluation, and when two of them are as good."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...storage.errors import ConfigError
from ..config.run import RunConfig
from ..metrics import EvaluateMetrics
from ..rounds.held_out import first_choices
from .paired import Difference, Key, compare_to


@dataclass(frozen=True)
class Measure:
    """One number of an evaluation.

    scale: its unit in the tables over its unit in the metrics. margin: a difference that matters to
    nobody; of a divergence a share of the baseline's, since nats mean other things for other pairs.
    digits: after the point.
    """

    name: str
    unit: str
    more_is_better: bool
    margin: float
    relative: bool = False
    scale: float = 1.0
    digits: int = 1

    def of(self, evaluation: EvaluateMetrics) -> float | None:
        """Return the number, None where it was not measured."""
        value = getattr(evaluation, self.name)
        return None if value is None else self.scale * value

    def within(self, baseline: Sequence[float]) -> float:
        """Return the margin beside the values of a baseline."""
        return self.margin * float(np.mean(baseline)) if self.relative else self.margin

    def judge(self, baseline: Key, values: Mapping[Key, Sequence[float]]) -> dict[Key, Difference]:
        """Compare every row with a baseline, seed by seed, as `compare_to` does."""
        margin = self.within(values[baseline])
        return compare_to(baseline, values, within=margin, more_is_better=self.more_is_better)

    @property
    def about(self) -> str:
        """Return the measure's name, unit and margin for people."""
        margin = (
            f"{100 * self.margin:g} % of the baseline's" if self.relative else f"{self.margin:g}"
        )
        side = "more" if self.more_is_better else "less"
        return f"{self.name} ({self.unit}, {side} is better, equal within {margin})"


def _nats(name: str) -> Measure:
    return Measure(name, "nats", False, margin=0.05, relative=True, digits=4)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "points", True, margin=2.0, scale=100.0),
        _nats("reverse_kl"),
        _nats("forward_kl"),
        _nats("jsd"),
        Measure("agreement", "points", True, margin=1.0, scale=100.0),
    )
}
_WITHOUT_TEACHER = ("accuracy",)


def measures_of(names: Iterable[str], configs: Sequence[RunConfig]) -> list[Measure]:
    """Return the measures of some names: accuracy and, where it is measured, reverse KL by default.

    configs: of the runs. Raises `ConfigError` for an unknown one, and for one that a run does not
    measure.
    """
    compared = all(c.evaluate is not None and c.evaluate.reverse_kl for c in configs)
    known = all(map(first_choices, configs))
    chosen = list(dict.fromkeys(name.strip() for name in names))
    if not chosen:
        chosen = ["accuracy", "reverse_kl"] if compared else ["accuracy"]
    for name in chosen:
        if name not in MEASURES:
            raise ConfigError(f"--metric {name}: there is none; choose from {', '.join(MEASURES)}")
        if name not in _WITHOUT_TEACHER and not compared:
            raise ConfigError(
                f"--metric {name} compares with the teacher on held-out rollouts: add "
                "`--set evaluate.reverse_kl=true`"
            )
        if name == "agreement" and not known:
            raise ConfigError(
                "--metric agreement asks for both models' first choices, which are not stored: set "
                "score.support = 'top' and rollout.student_top_max above 0, or leave it out"
            )
    return [MEASURES[name] for name in chosen]
