"""A run at work, as a value: its config, its folder, the store, its inputs, who runs its works.

Making one changes nothing of the process and writes nothing; an executor does both when it is given
something to make.
"""

from dataclasses import dataclass, replace

import torch

from ..stages.models.device import resolve_device
from ..stages.models.weights import Weights
from ..storage.errors import ConfigError
from ..storage.runs import RunFolder, RunView
from ..storage.store.store import Artifact, Store
from .config.auto import decided
from .config.run import RunConfig
from .config.toml import config_of
from .executors.executor import Executor
from .executors.finder import Finder
from .executors.here import Here
from .executors.on_ray import OnRay
from .inputs import Inputs
from .progress import Reporter


@dataclass(frozen=True)
class Session:
    """A run at work."""

    config: RunConfig
    run: RunFolder
    store: Store
    inputs: Inputs
    executor: Executor
    reporter: Reporter

    @property
    def device(self) -> torch.device:
        """Return where models are computed."""
        return resolve_device(self.config.device)

    def student(self, number: int) -> Weights:
        """Return the student that round `number` starts with."""
        if number == 0:
            return self.inputs.first_student
        pointers = self.run.round(number - 1)
        key = None if pointers is None else pointers.checkpoint
        artifact = None if key is None else self.store.find("checkpoint", key)
        if artifact is None:
            raise ConfigError(
                f"round {number} of run {self.run.name} has no student yet: round {number - 1} is "
                "not trained. `tip run` plays all rounds in order"
            )
        return self.trained(artifact)

    def trained(self, checkpoint: Artifact) -> Weights:
        """Return the student of a checkpoint; it keeps the first one's tokenizer and stop ids."""
        return self.inputs.first_student.trained(checkpoint)

    def of(self, run: RunFolder) -> "Session":
        """Return the session of another run of this store; whoever runs works stays the same."""
        config = config_of(run)
        return replace(self, config=config, run=run, inputs=self.inputs.of(config))


def open_session(
    config: RunConfig, reporter: Reporter | None = None, origin: str | None = None
) -> Session:
    """Return the session of a run whose works are run in this process, or as `workers` says.

    origin: `RUN@N` that the run branches off.
    """
    resolve_device(config.device)  # one that is not there is met before anything is written
    reporter = reporter or Reporter(quiet=True)
    run = RunFolder(config.runs, config.name)
    config = _decided(config, run, reporter, origin)
    store = Store(config.store)
    executor = OnRay if config.workers.executor == "ray" else Here
    return Session(
        config,
        run,
        store,
        Inputs(config, reporter),
        executor(config, store, reporter),
        reporter,
    )


def look_at(
    config: RunConfig, reporter: Reporter | None = None, origin: str | None = None
) -> Session:
    """Return a session that finds and never makes, and writes nowhere. origin: as above."""
    resolve_device(config.device)
    reporter = reporter or Reporter(quiet=True)
    run = RunView(config.runs, config.name)
    config = _decided(config, run, reporter, origin)
    store = Store(config.store, write=False)
    return Session(
        config,
        run,
        store,
        Inputs(config, reporter, look=True),
        Finder(store),
        reporter,
    )


def _decided(
    config: RunConfig, run: RunFolder, reporter: Reporter, origin: str | None
) -> RunConfig:
    """Return a config without `auto` where results depend on it; say what that stands for."""
    config, told = decided(config, run, origin)
    for line in told:
        reporter.say(line)
    return config
