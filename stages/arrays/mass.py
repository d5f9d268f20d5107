"""The smallest set of ids that holds a mass: one rule, for tensors and arrays alike."""

import math
from typing import Any


def up_to_mass(probabilities: Any, top_p: float) -> Any:
    """Return which of falling probabilities [N, S] count up to a mass: flags [N, S].

    The one that crosses `top_p` counts, so there is at least one. With top_p = 1 all count,
    whatever the rounding of their sum. probabilities: a torch tensor or a numpy array; the flags
    are of the same kind.
    """
    before = probabilities.cumsum(1) - probabilities
    return before < (top_p if top_p < 1 else math.inf)
