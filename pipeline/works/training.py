"""One round's training: a checkpoint that is shared, a training state that is the run's own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...stages.engines.probe import probe_key, reference_logprobs
from ...stages.engines.protocols import Tick, silent
from ...stages.holder import Holder, Sequences, as_arrays
from ...stages.models.card import ModelCard
from ...stages.models.fingerprint import model_fingerprint
from ...stages.models.language_model import LanguageModel
from ...stages.models.recast import recast
from ...stages.models.weights import Weights
from ...stages.signals.supports import Cut
from ...stages.train.data import TrainingData, load_training_data
from ...stages.train.drift import drift
from ...stages.train.export import Likeness, difference, export, likeness, refuse_beyond
from ...stages.train.lora import adapt, merge
from ...stages.train.settings import TrainSettings
from ...stages.train.state import load_state, state_about
from ...stages.train.tempered import at_temperature
from ...stages.train.totals import Totals
from ...stages.train.train import train, train_inputs
from ...stages.train.worlds.alone import Alone
from ...stages.train.worlds.world import World
from ...storage.errors import StoreError
from ...storage.facts import CheckpointFacts
from ...storage.files import is_finished
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Draft, Store
from .together import Together, train_together
from .work import Made, Work, all_found


@dataclass(frozen=True)
class TrainWork:
    """The training of one round.

    autocast: resolved compute type of the body. rates: learning rate of each step. start: the state
    that the round before left, None for the first. state, snapshot: where this one's state goes,
    and what a kill leaves. probes: sequences of which the checkpoint keeps log-probs, for engines.
    base: the first student, beside which adapters are trained; None where all weights are.
    together: the processes that train, None for the one that asks; it is in no key.
    """

    student: Weights
    rollouts: tuple[Artifact, ...]
    teacher: tuple[Artifact, ...]
    selection: Artifact
    settings: TrainSettings
    autocast: str
    rates: tuple[float, ...]
    seed: int
    start: Path | None
    state: Path
    snapshot: Path
    probes: Sequences = ()
    base: Weights | None = None
    together: Together | None = None
    unit = "steps"

    @property
    def size(self) -> int:
        """Return the optimiser's steps."""
        return len(self.rates)

    @property
    def key(self) -> str:
        """Return the key of the checkpoint."""
        return artifact_key("checkpoint", self.inputs())

    def inputs(self) -> dict[str, Any]:
        """Return what makes the checkpoint."""
        return train_inputs(
            self.student.key,
            (self.selection.key, self.selection.content),
            [(a.key, a.content) for a in self.teacher],
            self.settings,
            f"torch.{self.autocast}",
            self.rates,
            self.seed,
        )

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return the checkpoint where it is there."""
        return all_found([store.find("checkpoint", self.key)])

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Train and export, unless that has been done.

        What was read back of the export stays in memory as the student of the next stage.
        """
        left: list[LanguageModel] = []

        def make(draft: Draft) -> dict[str, Any]:
            facts, trained, card = self._export(holder, store, draft, tick)
            draft.hash_beside()
            with ThreadPoolExecutor(1) as beside:
                fingerprint = beside.submit(
                    model_fingerprint,
                    draft.folder,
                    card.tokenizer.get_vocab(),
                    code=card.code,
                    remember=False,
                )
                # the student is gone from memory, so this needs no more than training did
                exported = self._read_back(holder, draft)
                with holder.ledger.of("writing"):
                    gap = difference(trained, likeness(exported))
                with holder.ledger.of("waiting"):
                    update: dict[str, Any] = {"fingerprint": fingerprint.result()}
            update["reload_gap"] = gap
            next_student = self._as_student(exported, holder)
            del exported
            if self.probes:
                if next_student is None:
                    next_student = holder.read_back(self.student, draft.folder, self.student.dtype)
                known = reference_logprobs(next_student, as_arrays(self.probes)).tolist()
                update["probe"] = {probe_key(as_arrays(self.probes)): known}
            left.extend([next_student] if next_student is not None else [])
            return facts.model_copy(update=update).dump()

        made = Made(*store.ensure("checkpoint", self.inputs(), make))
        if made.fresh and left:
            holder.adopt(self.student.trained(made.artifact), left[0])
        return (made,)

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return ()

    def train(
        self, holder: Holder, store: Store, tick: Tick
    ) -> tuple[LanguageModel, CheckpointFacts]:
        """Train, leave the state for the next round, and return the model with its facts.

        The state may still be written afterwards (`Holder.states`).
        Where several processes train, they leave the state, and this one reads it.
        """
        holder.states.settle()
        _check(self.start, self.student.key)
        if self.together is not None and (state_about(self.state) or {}).get("key") != self.key:
            holder.release()
            train_together(self, self.together, tick, holder.say)
            tick = silent
        model, data, totals = self.trained(holder, store, tick, None)
        moved = drift(model, data, self.settings)
        return model, totals.facts(self.rates[-1], moved)

    def trained(
        self, holder: Holder, store: Store, tick: Tick, world: World | None
    ) -> tuple[LanguageModel, TrainingData, Totals]:
        """Train in this process, as one of a world or alone; return model, data and totals."""
        with holder.ledger.of("loading"):
            data = load_training_data(
                [store.path(a, "rollouts") for a in self.rollouts],
                [store.path(a, "teacher") for a in self.teacher],
                store.path(self.selection, "selection"),
                self._cuts(),
            )
        model = self._trainee(holder)
        temperature = self.rollouts[0].inputs["temperature"]
        if data.drawn is not None and temperature != 1:
            data = at_temperature(model, data, temperature, self.settings)
        totals = train(
            model,
            data,
            self.settings,
            self.rates,
            autocast=getattr(torch, self.autocast),
            seed=self.seed,
            start=self.start,
            state=self.state,
            snapshot=self.snapshot,
            key=self.key,
            world=world or Alone(holder.states),
            tick=tick,
            say=holder.say,
            ledger=holder.ledger,
        )
        return model, data, totals

    def _trainee(self, holder: Holder) -> LanguageModel:
        """Return what is trained: the student, or the first one with the adapters of this one."""
        lora = self.settings.lora
        model = holder.trainee(self.base or self.student, on_host=self._small)
        refuse_beyond(model, self.settings.export_dtype)
        if lora is None:
            return model
        model = adapt(model, lora, self.seed, holder.device)
        if self.start is not None:  # who asks it for log-probs means the student that sampled
            load_state(self.start, model.model, None, known=holder.states.seals)
        return model

    @property
    def _small(self) -> bool:
        return self.settings.lora is not None and self.settings.lora.bits is not None

    def _read_back(self, holder: Holder, draft: Draft) -> LanguageModel:
        return holder.read_back(self.student, draft.folder, "float32", on_host=self._small)

    def _as_student(self, exported: LanguageModel, holder: Holder) -> LanguageModel | None:
        """Return what was read back as stages ask for it, None where they must load it."""
        if exported.device != holder.device:
            return None
        return recast(exported, getattr(torch, self.student.dtype))

    def _cuts(self) -> list[Cut] | None:
        """Return how each shard's supports were cut, where a residual needs to know."""
        if self.settings.tail != "residual":
            return None
        return [Cut(a.inputs["teacher_top_p"], a.inputs["teacher_top_max"]) for a in self.teacher]

    def _export(
        self, holder: Holder, store: Store, draft: Draft, tick: Tick
    ) -> tuple[CheckpointFacts, Likeness, ModelCard]:
        """Train and export; of the student nothing stays in memory but what it is known by."""
        trained, facts = self.train(holder, store, tick)
        if self.settings.lora is not None:
            trained = merge(trained)
        with holder.ledger.of("writing"):
            export(trained, draft, self.settings.export_dtype)
            return facts, likeness(trained), trained.card


@dataclass(frozen=True)
class RestoreWork:
    """A past training done again for its state alone: the checkpoint is there, the state is not."""

    training: TrainWork
    unit = "steps"

    @property
    def size(self) -> int:
        """Return the optimiser's steps."""
        return self.training.size

    def found(self, store: Store) -> tuple[Made, ...] | None:
        """Return nothing where the state is there."""
        return () if is_finished(self.training.state) else None

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        """Train again from stored signals, until the state is written; nothing is committed."""
        self.training.train(holder, store, tick)
        holder.states.settle()
        return ()

    def spread(self, store: Store, most: int) -> tuple[Work, ...]:
        return ()


def _check(start: Path | None, key: str) -> None:
    """Refuse a state that another training left. key: of the training that made the student."""
    about = state_about(start) if start is not None else None
    if start is not None and about is not None and about.get("key") != key:
        raise StoreError(
            f"{start}: the training state of {about.get('key')}, not of {key}; delete it, and that "
            "round is trained again from stored signals"
        )
