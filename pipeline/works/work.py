"""A work: one or several shards of a stage, or one training, as a value.

A work is frozen, prints, pickles, and holds no model, no store and no session, so it can be
planned, sent to another process and tried alone. What it makes is decided by its key alone, and
the key is made in one place, by the stage. Whoever runs it gives it a holder and a store.
"""

from dataclasses import dataclass
from typing import Protocol

from ...stages.engines.protocols import Tick
from ...stages.holder import Holder
from ...storage.store.store import Artifact, Store


@dataclass(frozen=True)
class Made:
    """An artifact, and whether it was made just now (else it was found)."""

    artifact: Artifact
    fresh: bool


class Work(Protocol):
    """What an executor runs."""

    @property
    def size(self) -> int:
        """Return how much there is to do, in the unit of the bar."""
        ...

    @property
    def unit(self) -> str:
        """Return that unit, in the plural."""
        ...

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return what the store holds of it already; None where anything is missing."""
        ...

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Make what is missing and return everything, in order."""
        ...


def all_found(artifacts: list[Artifact | None]) -> tuple[Made, ...] | None:
    """Return found artifacts as they are reported, None where one is missing."""
    found = tuple(Made(a, fresh=False) for a in artifacts if a is not None)
    return found if len(found) == len(artifacts) else None
