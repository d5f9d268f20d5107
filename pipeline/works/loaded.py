"""A model loaded before anything needs it: what no header tells shows before hours of other work.

Numbers that are not finite, a quantisation whose library is not whole, a folder that one device
cannot hold. What is kept is a reference like that of engines, so a store asks once for each model.
"""

from dataclasses import dataclass

import numpy as np

from ...stages.engines.probe import KNOWN_TOKENS, reference_inputs
from ...stages.engines.protocols import Tick
from ...stages.holder import Holder
from ...stages.models.weights import Weights
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Store
from .reference import stored_reference
from .work import Made, Work, all_found


@dataclass(frozen=True)
class LoadedWork:
    """The log-probs of a few known tokens."""

    weights: Weights
    size = 1
    unit = "models"

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return them as they are stored."""
        return all_found([store.find("reference", artifact_key("reference", self._inputs()))])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Load the model, read the tokens, and forget it: what comes next may need its memory."""
        artifact, fresh = stored_reference(self.weights, self._tokens(), holder, store)
        if fresh:
            holder.release()
        tick(1)
        return (Made(artifact, fresh),)

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return (self,)

    def _tokens(self) -> list[np.ndarray]:
        return [np.arange(KNOWN_TOKENS, dtype=np.int64) % self.weights.card.head_rows]

    def _inputs(self) -> dict:
        return reference_inputs(self.weights.fingerprint, self.weights.compute(), self._tokens())
