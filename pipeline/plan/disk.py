"""How much the weights of a run take on disk, beside its tables."""

from dataclasses import dataclass

import torch

from ...stages.models.size import parameters_of
from ..session import Session

_STATE_BYTES = 12  # a parameter: float32 weight and two moments


@dataclass(frozen=True)
class WeightsOnDisk:
    """Bytes still to be written: checkpoints in the store, and what a run folder holds at most.

    states: those kept, the newest beside them, and the snapshot inside a round. state: one of them.
    """

    checkpoints: int
    states: int
    state: int


def weights_on_disk(session: Session, rounds: int) -> WeightsOnDisk | None:
    """Return what a number of trainings leave, None where the student's size is not known."""
    parameters, settings = parameters_of(session.inputs.student_card), session.config.train
    if parameters is None:
        return None
    width = getattr(torch, settings.export_dtype).itemsize
    states = min(settings.keep_states + 2, rounds + 1) if rounds else 0
    state = parameters * _STATE_BYTES
    return WeightsOnDisk(rounds * parameters * width, states * state, state if rounds else 0)
