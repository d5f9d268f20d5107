"""Works in this process, which is set up for computing when the first of them has to be made."""

from collections.abc import Sequence
from functools import cached_property, partial

from ...stages.engines.protocols import Spared, Tick
from ...stages.holder import Holder
from ...stages.models.cpu.process import set_up
from ...stages.models.device import resolve_device
from ...stages.models.merged import folder_of
from ...storage.store.store import Store
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Made, Work
from .executor import Results


class Here:
    """Runs works one after the other, with one holder.

    config: says device, threads and what a CPU is told; the models that are held together are those
    that joint scoring needs.
    """

    def __init__(self, config: RunConfig, store: Store, reporter: Reporter) -> None:
        self._config, self._store, self._reporter = config, store, reporter

    @cached_property
    def holder(self) -> Holder:
        """Return what holds models and engines; the process is set up for them."""
        config = self._config
        device = resolve_device(config.device)
        return Holder(
            device,
            at_once=2 if config.score.mode == "joint" else 1,
            folder_of=partial(folder_of, self._store, self._reporter.say),
            attention=set_up(device, config.threads, config.cpu),
            say=self._reporter.say,
            ledger=self._store.ledger,
        )

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Run works in order; what could not be written since the last ones is told before."""
        if "holder" in self.__dict__:
            self.holder.states.check()
        total, unit = sum(work.size for work in works), works[0].unit if works else ""
        with self._reporter.bar(title, total, unit) as tick:
            return [self.run(work, tick) for work in works]

    def run(self, work: Work, tick: Tick) -> tuple[Made, ...]:
        """Return what one work gives; what is found ticks at once."""
        found = work.found(self._store)
        if found is None:
            return work.ensure(self.holder, self._store, tick)
        tick(Spared(work.size))
        return found

    def settle(self) -> None:
        """Wait for the training state that is being written."""
        if "holder" in self.__dict__:
            self.holder.states.settle()

    def close(self) -> None:
        """Let go of models and engines."""
        if "holder" in self.__dict__:
            self.holder.close()
