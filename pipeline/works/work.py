"""A work: one or several shards of a stage, or one training, as a value.

A work is frozen, prints, pickles, and holds no model, no store and no session, so it can be
planned, sent to another process and tried alone. What it makes is decided by its key alone, and
the key is made in one place, by the stage. Whoever runs it gives it a holder and a store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ...stages.engines.protocols import Tick
from ...stages.holder import Holder
from ...storage.store.store import Artifact, Store

Shard = TypeVar("Shard")


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

    def spread(self, store: Store, most: int) -> tuple["Work", ...]:
        """Return what makes the same in other processes: at most so many works, in order.

        Empty where it belongs to the process that plays the run.
        """
        ...


def cut(shards: Sequence[Shard], there: Sequence[bool], most: int) -> list[tuple[Shard, ...]]:
    """Return shards in at most so many parts, in order, of about equally many that are missing.

    there: which are not.
    """
    missing = len(there) - sum(there)
    parts = max(1, min(most, missing))
    groups: list[list[Shard]] = [[] for _ in range(parts)]
    before = 0
    for shard, found in zip(shards, there, strict=True):
        groups[min(before * parts // max(1, missing), parts - 1)].append(shard)
        before += not found
    return [tuple(group) for group in groups]


def all_found(artifacts: list[Artifact | None]) -> tuple[Made, ...] | None:
    """Return found artifacts as they are reported, None where one is missing."""
    found = tuple(Made(a, fresh=False) for a in artifacts if a is not None)
    return found if len(found) == len(artifacts) else None
