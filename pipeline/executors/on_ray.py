"""Works on a Ray cluster: each actor opens the store by name and has a holder of its own.

What needs the run's own folder, or is too quick to be sent, runs in this process, with all of this
host's memory: its actors drop their models before, and this process its own before they begin.
"""

from collections.abc import Sequence

from ...stages.engines.protocols import Spared
from ...storage.store.store import Store
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Work
from .cluster import Cluster
from .crew import Crew
from .executor import Results
from .here import Here


class OnRay:
    """Runs works on the actors of a cluster. Nothing is started to find what is there."""

    def __init__(self, config: RunConfig, store: Store, reporter: Reporter) -> None:
        self._config, self._store, self._reporter = config, store, reporter
        self._here = Here(config, store, reporter)
        self._cluster: Cluster | None = None
        self._crew: Crew | None = None

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Run works: those that may leave this process, the longest first."""
        found = [work.found(self._store) for work in works]
        missing = [place for place, made in enumerate(found) if made is None]
        if not any(works[place].spread(self._store, 1) for place in missing):
            if missing and self._crew is not None:
                self._crew.release()
            return self._here.map(works, title)
        crew = self._begun()
        self._here.settle()
        self._here.close()
        parts = {place: works[place].spread(self._store, crew.size) for place in missing}
        total, unit = sum(work.size for work in works), works[0].unit
        with self._reporter.bar(title, total, unit) as tick:
            for work, made in zip(works, found, strict=True):
                if made is not None:
                    tick(Spared(work.size))
            sent = [part for place in missing for part in parts[place]]
            made_now = iter(crew.run(sent, title, tick))
            for place in missing:
                found[place] = tuple(each for _ in parts[place] for each in next(made_now))
        return [made for made in found if made is not None]

    def settle(self) -> None:
        """Wait for what this process, which trains, is writing."""
        self._here.settle()

    def close(self) -> None:
        """End the actors, and a cluster that was started for them."""
        crew, self._crew = self._crew, None
        cluster, self._cluster = self._cluster, None
        try:
            if crew is not None:
                crew.close()
        finally:
            if cluster is not None:
                cluster.close()
            self._here.close()

    def _begun(self) -> Crew:
        if self._cluster is None:
            self._cluster = Cluster(self._config.workers.address)
        if self._crew is None:
            self._crew = Crew(self._cluster, self._config, self._store, self._reporter)
        return self._crew
