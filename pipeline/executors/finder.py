"""Works that are only looked for: a run is played through, and nothing is made."""

from collections.abc import Sequence

from ...storage.store.store import Store
from ..works.work import Work
from .executor import Results


class LackingError(Exception):
    """The store does not hold what a run needs. Not for people: whoever looks expects it."""


class Finder:
    """Finds works in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def map(self, works: Sequence[Work], title: str) -> Results:
        """Return what is found; raise `LackingError` for the first work that is not whole."""
        results: Results = []
        for work in works:
            found = work.found(self._store)
            if found is None:
                raise LackingError(title)
            results.append(found)
        return results

    def settle(self) -> None:
        """Do nothing: nothing is written."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
