"""`tip export`: a trained student, or its adapters alone, as a folder for others.

The checkpoint is copied as it lies in the store. In another type its numbers come from float32:
from the checkpoint where it is that, else from the masters in the run's private state, which it was
rounded from. A model card says what it is made of, and licences that lie beside the first student
go with it. Nothing is trained here, and nothing is made in the store.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..stages.holder import Holder
from ..stages.models.adapter import is_adapter
from ..stages.models.card import ModelCard, look_at_card
from ..stages.models.language_model import LanguageModel
from ..stages.models.merged import find_merged
from ..stages.models.settings import ModelSettings
from ..stages.models.weights import Weights
from ..stages.train.adapter import write_adapter
from ..stages.train.export import Likeness, difference, export, likeness
from ..stages.train.lora import adapt, merge, require_lora
from ..stages.train.settings import LoraSettings
from ..stages.train.state import load_state, state_about
from ..storage.errors import ConfigError, StoreError
from ..storage.files import new_folder, unwritable, user_path
from ..storage.runs import RoundPointers, RunFolder
from ..storage.store.artifacts import Artifact
from ..storage.store.store import Draft, Store
from ..storage.visible import visible
from .config.run import RunConfig
from .config.toml import make_config
from .executors.here import Here
from .inputs import Inputs
from .progress import Reporter
from .rounds.branching import trained_run
from .show.card import NAME as CARD
from .show.card import Exported, model_card
from .show.cells import size
from .show.parents import parents_of

TYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Trained:
    """The student of a run after a number of rounds."""

    run: RunFolder
    config: RunConfig
    number: int
    store: Store
    checkpoint: Artifact

    @property
    def name(self) -> str:
        """Return how people name it."""
        return f"{self.run.name}@{self.number}"

    @property
    def settings(self) -> ModelSettings:
        """Return what reads its checkpoint as a model like any other."""
        folder = self.store.folder(self.checkpoint)
        return self.config.student.model_copy(update={"model": str(folder), "revision": None})

    @property
    def on(self) -> str:
        """Return the device to compute on: a base of 4 bits is made where it was trained."""
        lora = self.config.train.lora
        return self.config.device if lora is not None and lora.bits is not None else "cpu"


def export_and_show(
    origin: str, folder: str, runs: str, *, adapter: bool, dtype: str | None
) -> None:
    """Write the student of `RUN@N` into a new folder, and print what to do with it.

    adapter: its adapters alone. dtype: of the weights, None as they are stored. Raises a `TipError`
    for what is not there, before anything is written.
    """
    refuse_type(dtype)
    with unwritten_in_words(folder):
        target, trained = new_place(folder), trained_student(runs, origin)
        refuse_inside(target, folder, (trained.config.store, trained.config.runs))
        with new_folder(target) as beside:
            said = write(trained, beside, target, adapter=adapter, dtype=dtype)
            total = sum(path.stat().st_size for path in beside.iterdir())
    print(visible(f"{trained.name} is in {target}: {size(total)}, {said}"))


@contextmanager
def unwritten_in_words(folder: str) -> Iterator[None]:
    """Turn what a disk says while a user's folder is written into one line, a `ConfigError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder, or "
            "free some space"
        ) from error


def refuse_type(dtype: str | None) -> None:
    """Raise `ConfigError` for a type that weights are not written in."""
    if dtype is not None and dtype not in TYPES:
        raise ConfigError(f"--dtype {dtype}: expected {', '.join(TYPES)}")


def write(trained: Trained, folder: Path, target: Path, *, adapter: bool, dtype: str | None) -> str:
    """Write a student and its card into a folder; return what is said of it.

    target: where it will lie. The licences of the first student's folder are copied beside it.
    """
    said = (_adapter if adapter else _whole)(trained, folder, target, dtype)
    parents = parents_of(trained.run, trained.config)
    for path in parents[0].terms:
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    form = "float32" if adapter else dtype or trained.config.train.export_dtype
    exported = Exported(
        trained.run,
        trained.config,
        trained.number,
        trained.store,
        trained.checkpoint,
        form,
        adapter,
    )
    (folder / CARD).write_text(model_card(exported, folder, parents), encoding="utf-8")
    return said


def new_place(folder: str) -> Path:
    """Return the path of a folder that can be made. Raises `ConfigError` where it cannot."""
    if "://" in folder:
        raise ConfigError(f"{folder}: expected a folder of this machine; copy it from there")
    path = user_path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{folder}: is a file; name a new folder")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{folder}: is there and not empty; name a new folder, or remove it")
    if (reason := unwritable(path.parent)) is not None:
        raise ConfigError(f"{folder}: cannot be made ({reason}); name another folder")
    return path


def refuse_inside(target: Path, folder: str, roots: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a folder among those that tip looks after."""
    for root in roots:
        if "://" not in root and target.is_relative_to(user_path(root).absolute()):
            raise ConfigError(f"{folder}: lies in {root}, which tip keeps; name a folder elsewhere")


def trained_student(runs: str, origin: str, option: str = "tip export") -> Trained:
    """Return the student that `RUN@N` names. Raises a `TipError` for one that is not there."""
    run, about, number = trained_run(runs, origin, option)
    config = make_config(about.config, str(run.config_path))
    if "://" not in config.store and not user_path(config.store).is_dir():
        raise StoreError(
            f"{run.name}@{number}: its store = {config.store!r} is not here: call tip export where "
            "the run was started"
        )
    store = Store(config.store, write=False)
    key = (run.round(number - 1) or RoundPointers()).checkpoint
    checkpoint = None if key is None else store.find("checkpoint", key)
    if checkpoint is None:
        raise StoreError(
            f"{run.name}@{number}: checkpoint {key} is not in {config.store} any more; `tip run` "
            "with the run's config makes it again"
        )
    return Trained(run, config, number, store, checkpoint)


def _whole(trained: Trained, folder: Path, target: Path, dtype: str | None) -> str:
    """Write a model folder; return what is said of it. target: where it will lie."""
    stored = trained.config.train.export_dtype
    if dtype in (None, stored):
        for path in sorted(trained.store.folder(trained.checkpoint).iterdir()):
            shutil.copyfile(path, folder / path.name)
    else:
        _in_another_type(trained, folder, str(dtype))
    return (
        f"{dtype or stored}. Next: vllm serve {target}, or in Python "
        f"AutoModelForCausalLM.from_pretrained('{target}')"
    )


def _in_another_type(trained: Trained, folder: Path, dtype: str) -> None:
    """Write the student's float32 numbers in a type, and show that this is what was written."""
    card = look_at_card(trained.settings)
    weights = Weights("student", card, trained.checkpoint.key, "float32")
    here = Here(
        trained.config.model_copy(update={"device": trained.on}),
        trained.store,
        Reporter(quiet=True),
    )
    try:
        written = _written(trained, here.holder, weights, folder, dtype)
        difference(written, likeness(here.holder.read_back(weights, folder, "float32")))
    finally:
        here.close()


def _written(
    trained: Trained, holder: Holder, weights: Weights, folder: Path, dtype: str
) -> Likeness:
    """Write the student; of it nothing stays in memory but what it is known by."""
    model = _in_float32(trained, holder, weights)
    export(model, Draft(folder), dtype)
    return likeness(model)


def _in_float32(trained: Trained, holder: Holder, weights: Weights) -> LanguageModel:
    """Return the student as it was trained. weights: its checkpoint."""
    settings = trained.config.train
    if settings.export_dtype == "float32":
        return holder.trainee(weights)
    state = _state(trained, f"leave --dtype out for its checkpoint in {settings.export_dtype}")
    if settings.lora is None:
        model = holder.trainee(weights)
        model.model.requires_grad_(True)
        load_state(state, model.model, None)
        model.model.requires_grad_(False)
        return model
    require_lora(settings.lora, holder.device)
    first = _first_student(trained)
    on_host = settings.lora.bits is not None
    model = holder.trainee(first, on_host=on_host)
    model = adapt(model, settings.lora, trained.config.seed, holder.device)
    load_state(state, model.model, None)
    return merge(model)


def _first_student(trained: Trained) -> Weights:
    """Return the student that the run began with. Raises `ConfigError` where it has changed."""
    first = Inputs(trained.config, Reporter(quiet=True)).first_student
    began = (trained.run.round(0) or RoundPointers()).student
    if began is not None and first.fingerprint != began:
        raise ConfigError(
            f"{trained.name}: what student.model = {trained.config.student.model!r} names has "
            "changed since the run was started: bring the old one back, or leave out --dtype and "
            "--adapter"
        )
    if first.card.adapter is not None:
        _merged(trained, first.card)  # nothing is merged here
    return first


def _adapter(trained: Trained, folder: Path, target: Path, dtype: str | None) -> str:
    """Write a folder of adapters; return what is said of it. target: where it will lie."""
    lora, student = trained.config.train.lora, trained.config.student
    if lora is None:
        raise ConfigError(
            f"{trained.name}: trained without train.lora, so there is no adapter: leave --adapter "
            "out for the whole student"
        )
    if dtype is not None:
        raise ConfigError("--adapter writes float32 masters as they are: leave --dtype out")
    require_lora(lora.model_copy(update={"bits": None}), torch.device("cpu"))
    state = _state(trained, "leave --adapter out for the merged student")
    base, card = _first_folder(trained), look_at_card(trained.settings)
    write_adapter(folder, state, card, lora, base, student.revision)
    return (
        f"adapters of rank {lora.rank}, float32{_beside(lora)}. Next: in Python "
        f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('{base}'), '{target}')"
    )


def _first_folder(trained: Trained) -> str:
    """Return where peft finds what the run began with: a folder, or a hub name.

    Where that is an adapter itself, it is what the store keeps of it, merged.
    """
    student = trained.config.student
    there = user_path(student.model)
    if not there.is_dir():
        return student.model
    if not is_adapter(there):
        return str(there.resolve())
    merged = _merged(trained, _first_student(trained).card)
    return str(trained.store.folder(merged).resolve())


def _merged(trained: Trained, card: ModelCard) -> Artifact:
    merged = find_merged(trained.store, card)
    if merged is None:
        raise StoreError(
            f"{trained.name}: its first student is an adapter, and what was merged of it is not in "
            f"{trained.config.store} any more: `tip run` with the run's config makes it again"
        )
    return merged


def _beside(lora: LoraSettings) -> str:
    """Return what is said of the base that adapters were trained beside."""
    return "" if lora.bits is None else f", trained beside a base of {lora.bits} bits (NF4)"


def _state(trained: Trained, way_out: str) -> Path:
    """Return the training state of the student. Raises `StoreError` where it is gone.

    That of a round that a branch shares lies with the run that it belongs to.
    """
    run, key = trained.run, trained.checkpoint.key
    while (began := run.branch()) is not None and run.find_state(key) is None:
        if trained.number > began[1]:
            break
        run = RunFolder(run.path.parent, began[0])
    state = run.find_state(key)
    if state is not None and (state_about(state) or {"key": key}).get("key") == key:
        return state  # of a damaged one its reader tells
    kept = [f"{trained.run.name}@{number}" for number in _kept(trained.run)]
    there = {0: "none is", 1: f"that of {''.join(kept)} is"}.get(
        len(kept), f"those of {', '.join(kept)} are"
    )
    keep = trained.config.train.states(ended=True)
    raise StoreError(
        f"{trained.name}: its training state, which holds the float32 masters, is gone; {there} "
        f"here (train.keep_states = {keep}): {way_out}"
    )


def _kept(run: RunFolder) -> list[int]:
    """Return the numbers of trained rounds whose state lies in a run's folder."""
    keys = {number + 1: pointers.checkpoint for number, pointers in run.rounds()}
    return [n for n, key in keys.items() if key is not None and run.find_state(key) is not None]
