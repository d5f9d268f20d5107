"""The learning rate of each step, as numbers: what a training key holds."""

import math

from .settings import TrainSettings


def learning_rates(
    settings: TrainSettings, horizon: int, first: int, count: int
) -> tuple[float, ...]:
    """Return the learning rates of `count` steps from step `first` of the run.

    Linear warm-up over `warmup_steps` (step 0 already moves), then the schedule down to
    `min_lr_frac` of the peak at step `horizon`; steps beyond stay there.
    """
    return tuple(
        settings.lr * _share(settings, horizon, step) for step in range(first, first + count)
    )


def _share(settings: TrainSettings, horizon: int, step: int) -> float:
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, horizon - warmup))
    fall = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.min_lr_frac + (1 - settings.min_lr_frac) * fall
