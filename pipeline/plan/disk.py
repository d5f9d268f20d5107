"""How much the weights of a run take on disk, beside its tables."""

from dataclasses import dataclass

import torch

from ...stages.models.load import load_on_meta
from ...stages.models.size import parameters_of
from ...stages.train.lora import lora_parameters
from ...stages.train.optimizers import moment_bytes
from ..session import Session

_MASTER = 4  # bytes of a trained number in a training state; its moments stand beside it


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
    trained = parameters
    if settings.lora is not None:
        card = session.inputs.student_card
        trained = lora_parameters(load_on_meta(card), card, settings.lora)
    state = round(trained * (_MASTER + moment_bytes(settings.optimizer)))
    return WeightsOnDisk(rounds * parameters * width, states * state, state if rounds else 0)
