"""What a user can set for trackers: who is told what a run's metrics say."""

from typing import Annotated, Literal

from ...stages.settings import NOT_IN_KEY, Natural, NotNegative, Settings

Name = Literal["tensorboard", "mlflow", "wandb", "trackio"]


class TrackSettings(Settings):
    """Trackers of experiments that are told what `metrics.jsonl` says."""

    to: Annotated[tuple[Name, ...], NOT_IN_KEY] = ()
    """Whom to tell: `tensorboard`, `mlflow`, `wandb`, `trackio`. Each is set up by its own
    environment variables, and installed as an extra of its name."""
    project: Annotated[str, NOT_IN_KEY] = "tip"
    """Project, or experiment, that runs are filed under there."""
    rollouts: Annotated[Natural, NOT_IN_KEY] = 4
    """Rollouts a round that are shown in words, the selected tokens marked. 0: none."""
    patience_seconds: Annotated[NotNegative, NOT_IN_KEY] = 10.0
    """How long a run's end waits for trackers. What they have not taken by then is sent at the next
    start, or by `tip track`."""
