"""What training asks of the processes that train together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class World(Protocol):
    """The processes of one training; each runs the same steps over its own micro-batches.

    rank: of this process, from 0. size: how many there are.
    """

    rank: int
    size: int

    def wrap(self, step: nn.Module) -> nn.Module:
        """Return the step as this world runs it: its parameters may be spread over processes."""
        ...

    def share(self, batches: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
        """Return this process's part of a step's micro-batches; all get equally many.

        batches: rows of each. lengths: ids that the body reads, by row. An empty one is to be
        taken with any rows and no weight: the others wait for this process in it.
        """
        ...

    def total(self, numbers: Tensor) -> Tensor:
        """Return sums over all processes, [N] float64, on the device."""
        ...

    def any(self, *flags: bool) -> list[bool]:
        """Tell of each whether it is so in any process: what all must do, none may decide alone."""
        ...

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Scale all gradients to at most a norm; return what it was, on the device."""
        ...

    def save(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write masters, moments and `about` as a training state, whole or not at all."""
        ...

    def leave(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write a finished training's state as `save` does, maybe while this process goes on.

        Nothing may change its numbers any more, and who needs the file waits for it.
        """
        ...

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Read a training state; return its `about`."""
        ...

    def about(self, path: Path) -> dict[str, Any] | None:
        """Return what a training state says of itself, None where there is none to be read."""
        ...
