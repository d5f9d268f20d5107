"""Where a training begins: at what this very one has left, else at the state of the last round."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ...storage.errors import StoreError
from ...storage.files import is_finished
from .totals import Totals
from .worlds.world import World


def resume(
    world: World,
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    key: str,
    say: Callable[[str], None],
) -> Totals | None:
    """Load what this very training left at a path; return its totals, None where it left nothing.

    What is damaged is nothing, and said. States of older versions keep no totals, so there is
    nothing to be had from them here.
    """
    about = world.about(path)
    if about is None and is_finished(path):
        say(f"note: {path}: damaged, so training does not go on from there")
    if about is None or about.get("key") != key or "totals" not in about:
        return None
    try:
        world.load(path, model, optimizer)
    except StoreError as error:
        say(f"note: {error}")
        return None
    return Totals(**about["totals"])


def begin(
    world: World, start: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Totals:
    """Load the state of the round before, where there is one; nothing is counted yet."""
    if start is not None:
        world.load(start, model, optimizer)
    return Totals()
