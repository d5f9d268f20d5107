"""One process that trains alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..state import load_state, save_state, state_about, state_tensors
from ..states import States


class Alone:
    """A world of one: everything is here, and nothing is to be shared.

    states: what writes a finished state while the process goes on; None where that is waited for.
    """

    rank, size = 0, 1

    def __init__(self, states: States | None = None) -> None:
        self._states = states

    def wrap(self, step: nn.Module) -> nn.Module:
        """Return the step as it is."""
        return step

    def share(self, batches: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
        """Return all micro-batches."""
        return list(batches)

    def total(self, numbers: Tensor) -> Tensor:
        """Return the numbers."""
        return numbers

    def any(self, *flags: bool) -> list[bool]:
        """Return the flags."""
        return list(flags)

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Scale all gradients to at most a norm; return what it was."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return nn.utils.clip_grad_norm_(parameters, norm)

    def save(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write a training state."""
        save_state(path, model, optimizer, about)

    def leave(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write a training state, or begin to; what lies on a GPU is copied from there first."""
        if self._states is None:
            self.save(path, model, optimizer, about)
        else:
            tensors = state_tensors(model, optimizer, lambda tensor: tensor.cpu())
            self._states.leave(path, tensors, about)

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Read a training state; return its `about`."""
        known = () if self._states is None else self._states.seals
        return load_state(path, model, optimizer, known=known)

    def about(self, path: Path) -> dict[str, Any] | None:
        """Return what a training state says of itself, None where there is none to be read."""
        return state_about(path)
