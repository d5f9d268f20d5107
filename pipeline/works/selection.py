"""A round's selection: which tokens are trained on."""

from dataclasses import dataclass
from typing import Any

from ...stages.engines.protocols import Tick
from ...stages.holder import Holder
from ...stages.select.select import select, selection_inputs
from ...stages.select.settings import SelectSettings
from ...storage.columns import SELECTION
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Draft, Store
from .work import Made, Work, all_found


@dataclass(frozen=True)
class SelectWork:
    """The selection of one round. vocabulary: V of the student. threads: 0 takes all cores."""

    rollouts: tuple[Artifact, ...]
    tokens: tuple[Artifact, ...]
    settings: SelectSettings
    seed: int
    vocabulary: int
    threads: int
    size = 0  # too quick for a bar
    unit = "rounds"

    def inputs(self) -> dict[str, Any]:
        """Return what makes the selection."""
        origins = [(a.key, a.content) for a in self.tokens]
        return selection_inputs(self.settings, origins, seed=self.seed, vocabulary=self.vocabulary)

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the selection where it is there."""
        return all_found([store.find("selection", artifact_key("selection", self.inputs()))])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Select, unless that has been done."""

        def make(draft: Draft) -> dict[str, Any]:
            table, facts = select(
                [store.path(a, "tokens") for a in self.tokens],
                [store.path(a, "rollouts") for a in self.rollouts],
                self.settings,
                seed=self.seed,
                vocabulary=self.vocabulary,
                threads=self.threads,
            )
            draft.table("selection", table, SELECTION)
            return facts.dump()

        return (Made(*store.ensure("selection", self.inputs(), make)),)

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return ()
