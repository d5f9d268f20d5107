"""What the doctor looks at: a config, and what is made of it when a check first asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from ...stages.holder import Holder
from ...storage.errors import TipError
from ...storage.runs import RunView
from ...storage.store.store import Store
from ..config.auto import decided
from ..config.run import RunConfig
from ..executors.here import Here
from ..inputs import Inputs
from ..plan.plan import Plan, planned
from ..progress import Reporter
from ..session import Session, look_at


class NotLookedError(Exception):
    """A check cannot be made here; says why. Not for people: the doctor expects it."""


class Notes(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._said: list[str] = []

    def say(self, text: str) -> None:
        """Keep a note."""
        self._said.append(text.removeprefix("note: "))

    def taken(self) -> list[str]:
        """Return what was said since the last call."""
        taken, self._said = self._said, []
        return taken


class Examined:
    """A config of which each part is looked at by itself, so that one may fail and others not."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.notes = _decided(config), Notes()

    @cached_property
    def inputs(self) -> Inputs:
        """Return what is known without weights."""
        return Inputs(self.config, self.notes, look=True)

    @cached_property
    def session(self) -> Session:
        """Return a session that looks. Raises a `TipError` for its device, name or store."""
        return replace(look_at(self.config, self.notes), inputs=self.inputs)

    @cached_property
    def plan(self) -> Plan:
        """Return what the run would do."""
        return planned(self.session)

    @contextmanager
    def holder(self) -> Iterator[Holder]:
        """Give what loads models and starts engines; in the end all of them go."""
        store = Store(self.config.store, write=False)
        here = Here(self.config, store, Reporter(quiet=True))
        try:
            yield here.holder
        finally:
            here.close()


def _decided(config: RunConfig) -> RunConfig:
    """Return a config without `auto`; what hinders that has a check of its own."""
    try:
        return decided(config, RunView(config.runs, config.name))[0]
    except TipError:
        return config
