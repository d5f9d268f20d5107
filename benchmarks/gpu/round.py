"""The training stage of a round: what of it computes, and what loads, reads and writes.

A student of Qwen3-0.6B's shape and tables of random numbers on the disk, 8 steps. The stage is put
together here as a round does it (`pipeline/works/training.py`), less the manifest, so that neither
a store nor DuckDB is needed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tip.benchmarks.round_tables import Sizes, write_round
from tip.stages.models.device import resolve_dtype
from tip.stages.models.fingerprint import model_fingerprint
from tip.stages.models.load import load_model
from tip.stages.train.data import load_training_data
from tip.stages.train.drift import drift
from tip.stages.train.export import difference, export, likeness, refuse_beyond
from tip.stages.train.settings import TrainSettings
from tip.stages.train.train import train
from tip.stages.train.worlds.alone import Alone
from tip.storage.store.drafts import drafted

from .measure import Row, Setting, Timed, row
from .qwen3 import card, make, vocabulary

STEPS = 8
NOTES = {
    "loading": "tables, float32 weights, the checks of both",
    "computing": "steps, and the drift afterwards",
    "writing": "state, checkpoint, and their hashes",
    "reading back": "the checkpoint as a model in float32, held against the student",
}


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self, setting: Setting) -> None:
        self.seconds = dict.fromkeys((*NOTES, "compiling"), 0.0)
        self._wait = setting.wait

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add what the block takes, and what it left the device to do."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - start


class Clocked(Alone):
    """One process that trains alone, whose writing of states is timed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def save(self, *given: Any) -> None:
        """Write a training state."""
        with self._clock.on("writing"):
            super().save(*given)


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the stage as a whole, and its parts."""
    each, prompt, response = setting.pick((32, 64, 256), (4, 6, 12))
    sizes = Sizes(4, each, prompt, response, vocabulary(setting))
    with TemporaryDirectory() as name:
        folder = Path(name)
        make("0.6B", setting, torch.bfloat16).model.save_pretrained(folder / "student")
        seconds = stage(folder, write_round(folder, sizes), 4 * each // STEPS, setting)
    compiling = seconds.pop("compiling")
    whole = sum(seconds.values())
    at = f"0.6B, {4 * each} rollouts of {response} tokens, {STEPS} steps"
    yield row(
        "training stage",
        Timed((whole,)),
        f"what of it computes, {seconds['computing']:.3g} s",
        seconds["computing"],
        at=at,
        wanted="<= 4 s",
        note=f"compiling aside, {compiling:.3g} s",
        before="18 s, for about one of computing",
    )
    for part, taken in seconds.items():
        beside = f"the stage, {whole:.3g} s"
        yield row(f"of it {part}", Timed((taken,)), beside, whole, at=at, note=NOTES[part])


def stage(
    folder: Path, tables: tuple[list[Path], list[Path], Path], each: int, setting: Setting
) -> dict[str, float]:
    """Train and export as a round does; return the seconds that it took, by what they went to.

    tables: as `write_round` gives them. each: rollouts of a step.
    """
    clock, settings = Clock(setting), TrainSettings(rollouts_per_step=each, fused="auto")
    of_student = card(folder / "student", setting)
    with clock.on("loading"):
        data = load_training_data(*tables)
        student = load_model(of_student, setting.device, torch.float32)
        refuse_beyond(student, settings.export_dtype)
    with clock.on("computing"):
        totals = train(
            student,
            data,
            settings,
            [1e-6] * STEPS,
            autocast=resolve_dtype(settings.autocast, setting.device),
            seed=0,
            start=None,
            state=folder / "state",
            snapshot=folder / "snapshot",
            key="key",
            world=Clocked(clock),
        )
        drift(student, data, settings)
    inside = clock.seconds["writing"] + totals.compile_seconds
    clock.seconds["computing"] -= inside
    clock.seconds["compiling"] = totals.compile_seconds
    with drafted(folder / "drafts") as draft:
        with clock.on("writing"):
            export(student, draft, settings.export_dtype)
            known = likeness(student)
            del student
            model_fingerprint(draft.folder, {}, remember=False)
            draft.parts()
        with clock.on("reading back"):
            there = replace(of_student, folder=draft.folder)
            found = load_model(there, setting.device, torch.float32)
            difference(known, likeness(found))
    return clock.seconds
