"""Processes that train one model together: parameters, gradients and moments spread over them.

Each decoder layer is gathered when it computes and let go of afterwards (FSDP2); what lies outside
of the layers, embedding and head among it, is gathered once a micro-batch. Gradients are summed,
never averaged: one denominator holds for the whole step. A state is one file for any number of
processes, gathered tensor by tensor: it takes 12 bytes a parameter of the first one's host.

Source: PyTorch FSDP2, `torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ....storage.errors import StoreError
from ...models.compiled import layers_of
from ..state import load_state, state_about, state_tensors, write_state
from .shares import shares


class Sharded:
    """The processes of torch's default group, which is there before one of these is made.

    device: of this process. Each process holds the whole model until `wrap`.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self._device = dist.get_rank(), dist.get_world_size(), device
        self._mesh = init_device_mesh(device.type, (self.size,))

    def wrap(self, step: nn.Module) -> nn.Module:
        """Spread a step's parameters, layer by layer; what has no layers is spread as one."""
        for layer in list(layers_of(step)):
            fully_shard(layer, mesh=self._mesh)
        fully_shard(step, mesh=self._mesh, reshard_after_forward=False)
        for module in step.modules():
            if isinstance(module, FSDPModule):
                # gloo has no averages, and a factor would be rounded
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        return step

    def share(self, batches: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
        """Return this rank's micro-batches, as `shares` spreads them."""
        return shares(batches, lengths, self.size)[self.rank]

    def total(self, numbers: Tensor) -> Tensor:
        """Return sums over all ranks."""
        dist.all_reduce(numbers)
        return numbers

    def any(self, *flags: bool) -> list[bool]:
        """Tell of each whether it is so in any rank."""
        counts = torch.tensor(flags, dtype=torch.float64, device=self._device)
        return [count > 0 for count in self.total(counts).tolist()]

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Scale all gradients to at most a norm; return what it was."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = nn.utils.clip_grad_norm_(parameters, norm)
        return found.full_tensor() if isinstance(found, DTensor) else found

    def save(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write a training state, gathered in rank 0; what fails there fails in all."""
        tensors = state_tensors(model, optimizer, self._gathered)
        failed: list[str | None] = [None]
        if self.rank == 0:
            try:
                write_state(path, tensors, about)
            except StoreError as error:
                failed = [str(error)]
        dist.broadcast_object_list(failed, src=0, device=self._device)
        if failed[0] is not None:
            raise StoreError(failed[0])

    def leave(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> None:
        """Write a training state to its end: the processes have nothing else to do."""
        self.save(path, model, optimizer, about)

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, Any]:
        """Read this rank's part of a training state, whoever wrote it; return its `about`."""
        return load_state(path, model, optimizer, _spread)

    def about(self, path: Path) -> dict[str, Any] | None:
        """Return what a training state says of itself, None where there is none to be read."""
        return state_about(path)

    def _gathered(self, tensor: Tensor) -> Tensor:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole.cpu() if self.rank == 0 else torch.empty(0)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as one lies; all ranks read it, so nothing is sent.

    Scalars, the optimiser's count of steps, lie whole in each rank.
    """
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    there = value.to(like.device)
    part = distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
    return part.clone()  # a view would hold the whole in memory
