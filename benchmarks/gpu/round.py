"""The training stage of a round: what of it computes, and what loads, reads and writes.

A student of Qwen3-0.6B's shape and tables of random numbers on the disk, 8 steps. The stage is put
together here as a round does it (`pipeline/works/training.py`), less the manifest, so that neither
a store nor DuckDB is needed.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tip.benchmarks.round_tables import Sizes, write_round
from tip.stages.models.device import resolve_dtype
from tip.stages.models.fingerprint import model_fingerprint
from tip.stages.models.load import load_model
from tip.stages.train.data import load_training_data
from tip.stages.train.drift import drift
from tip.stages.train.export import difference, export, likeness, refuse_beyond
from tip.stages.train.settings import TrainSettings
from tip.stages.train.states import States
from tip.stages.train.train import train
from tip.stages.train.worlds.alone import Alone
from tip.storage.ledger import Ledger
from tip.storage.store.drafts import drafted

from .measure import Row, Setting, Timed, row
from .qwen3 import card, make, vocabulary

STEPS = 8
NOTES = {
    "computing": "steps, and the drift afterwards",
    "loading": "tables, float32 weights, the checkpoint again, the checks of all",
    "writing": "the checkpoint and what it is known by; of the state, its copy to the host",
    "waiting": "for the hashes of the checkpoint, which other threads make",
}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the stage as a whole, and its parts."""
    each, prompt, response = setting.pick((32, 64, 256), (4, 6, 12))
    sizes = Sizes(4, each, prompt, response, vocabulary(setting))
    with TemporaryDirectory() as name:
        folder = Path(name)
        make("0.6B", setting, torch.bfloat16).model.save_pretrained(folder / "student")
        seconds = stage(folder, write_round(folder, sizes), 4 * each // STEPS, setting)
    compiling, after = seconds.pop("compiling"), seconds.pop("afterwards")
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
    beside = f"the stage, {whole:.3g} s"
    for part, taken in seconds.items():
        yield row(f"of it {part}", Timed((taken,)), beside, whole, at=at, note=NOTES[part])
    late = "while the next stages go on"
    yield row("its state's writing, beside", Timed((after,)), beside, whole, at=at, note=late)


def stage(
    folder: Path, tables: tuple[list[Path], list[Path], Path], each: int, setting: Setting
) -> dict[str, float]:
    """Train and export as a round does; return the seconds that it took, by what they went to.

    tables: as `write_round` gives them. each: rollouts of a step.
    """
    settings = TrainSettings(tail=True, rollouts_per_step=each, fused="auto")
    of_student = card(folder / "student", setting)
    setting.wait()
    ledger, start = Ledger(), time.perf_counter()
    states = States(ledger)
    with ledger.of("loading"):
        data = load_training_data(*tables)
        student = load_model(of_student, setting.device, torch.float32)
        refuse_beyond(student, settings.export_dtype)
    train(
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
        world=Alone(states),
        ledger=ledger,
    )
    drift(student, data, settings)
    setting.wait()
    with drafted(folder / "drafts", ledger=ledger) as draft:
        with ledger.of("writing"):
            export(student, draft, settings.export_dtype)
            known = likeness(student)
        del student
        draft.hash_beside()
        with ThreadPoolExecutor(1) as beside:
            fingerprint = beside.submit(model_fingerprint, draft.folder, {}, remember=False)
            with ledger.of("loading"):
                there = replace(of_student, folder=draft.folder)
                found = load_model(there, setting.device, torch.float32)
            with ledger.of("writing"):
                difference(known, likeness(found))
            with ledger.of("waiting"):
                fingerprint.result()
                draft.parts()
    whole, told = time.perf_counter() - start, ledger.seconds()
    states.settle()
    states.close()
    return {
        "computing": whole - sum(told.values()),
        **told,
        "afterwards": time.perf_counter() - start - whole,
    }
