"""How much the weights of a run take on disk, beside its tables."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ...stages.models.merged import find_merged
from ...stages.models.size import parameters_of
from ...stages.train.optimizers import moment_bytes
from ..session import Session
from .sizes import Sizes

_MASTER = 4  # bytes of a float32 number: trained, in a state beside its moments, or merged


@dataclass(frozen=True)
class WeightsOnDisk:
    """Bytes still to be written: checkpoints in the store, and what a run folder holds at most.

    states: those kept, the newest beside them, and the snapshot inside a round. state: one of them.
    merged: models of adapters in the store.
    """

    checkpoints: int
    states: int
    state: int
    merged: int = 0


def weights_on_disk(session: Session, sizes: Sizes, rounds: int) -> WeightsOnDisk | None:
    """Return what a number of trainings leave, None where the student's size is not known."""
    parameters, settings = sizes.student.parameters, session.config.train
    if parameters is None:
        return None
    width = getattr(torch, settings.export_dtype).itemsize
    states = min(settings.states() + 2, rounds + 1) if rounds else 0
    trained = parameters
    if settings.lora is not None:
        _, trained = sizes.adapted(settings.lora)
    state = round(trained * (_MASTER + moment_bytes(settings.optimizer)))
    checkpoints = rounds * parameters * width
    merged = sum(merge.bytes for merge in merges(session)) if rounds else 0
    return WeightsOnDisk(checkpoints, states * state, state if rounds else 0, merged)


@dataclass(frozen=True)
class Merge:
    """An adapter that is still to be merged over its base, in the store. role: whose model."""

    role: str
    adapter: Path
    base: Path
    rank: int
    bytes: int


def merges(session: Session) -> list[Merge]:
    """Return the adapters whose merged models are not in the store yet."""
    cards = {"student": session.inputs.student_card}
    if session.config.score.engine != "server":
        cards["teacher"] = session.inputs.teacher_card
    return [
        Merge(role, own.folder, own.base, own.rank, _MASTER * (parameters_of(card) or 0))
        for role, card in cards.items()
        if (own := card.adapter) is not None and find_merged(session.store, card) is None
    ]
