"""The train stage through the store: a checkpoint that is shared, a training state that is not.

The next round trains from the state (float32 masters, moments). States are kept for the last
rounds only; one that is needed and gone is made again by training that round from its stored
signals, which gives the same numbers and costs no generation and no teacher.
"""

from pathlib import Path
from typing import Any

import torch

from ...stages.models.device import resolve_dtype
from ...stages.models.fingerprint import model_fingerprint
from ...stages.models.language_model import LanguageModel
from ...stages.models.load import load_model
from ...stages.train.data import TrainingData, load_training_data
from ...stages.train.drift import drift
from ...stages.train.export import export
from ...stages.train.schedule import learning_rates
from ...stages.train.state import save_state
from ...stages.train.train import steps_of, train, train_inputs
from ...storage.errors import StoreError
from ...storage.runs import RunFolder
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Draft
from ..config.toml import make_config
from ..progress import Stopwatch
from ..session import Session, Student, report
from .steps import stored


def ensure_training(
    session: Session,
    number: int,
    student: Student,
    rollouts: list[Artifact],
    teacher: list[Artifact],
    selection: Artifact,
) -> Artifact:
    """Return the checkpoint of a round's training."""
    watch = Stopwatch()
    job = _Job(session, number, student, rollouts, teacher, selection)

    def make(draft: Draft) -> dict[str, Any]:
        trained, facts = job.train()
        export(trained, draft, session.config.train.export_dtype)
        vocabulary = trained.card.tokenizer.get_vocab()
        return facts | {"fingerprint": model_fingerprint(draft.folder, vocabulary)}

    artifact, fresh = session.store.ensure("checkpoint", job.inputs, make)
    facts = artifact.facts
    skipped = f", {facts['skipped']} steps skipped (not finite)" if facts["skipped"] else ""
    report(
        session,
        number,
        "train",
        watch,
        f"{facts['steps']} steps on {facts['trained_tokens']:,} tokens: loss {facts['loss']:.4f}"
        f"{skipped}" + ("" if fresh else ", found"),
        **{k: v for k, v in facts.items() if k != "losses"},
        fresh=fresh,
    )
    session.run.update_round(number, checkpoint=artifact.key)
    if fresh:  # a run that only looks at its first rounds still needs the states of its last
        _drop_old_states(session, number)
    return artifact


class _Job:
    """One round's training: its key, its inputs, and where it starts."""

    def __init__(
        self,
        session: Session,
        number: int,
        student: Student,
        rollouts: list[Artifact],
        teacher: list[Artifact],
        selection: Artifact,
    ) -> None:
        self.session, self.number, self.student = session, number, student
        self.sources = (rollouts, teacher, selection)
        config = session.config
        count = sum(a.facts["rollouts"] for a in rollouts)
        steps = steps_of(count, config.train)
        self.rates = learning_rates(config.train, horizon(session, steps), number * steps, steps)
        dtype = resolve_dtype(config.train.autocast, session.device)
        self.inputs = train_inputs(
            student.key,
            (selection.key, selection.content),
            [(a.key, a.content) for a in teacher],
            config.train,
            str(dtype),
            self.rates,
            config.seed,
        )
        self.key = artifact_key("checkpoint", self.inputs)

    def train(self) -> tuple[LanguageModel, dict[str, Any]]:
        """Train, save the state for the next round, and return the model with facts."""
        session, config = self.session, self.session.config
        state = ensure_state(session, self.number - 1) if self.number else None
        data = self._data()
        session.engines.close()  # a vLLM process leaves no room beside it
        session.release_all()
        settings = self.student.settings
        model = load_model(settings, session.device, torch.float32, session.card(settings))
        with session.reporter.bar(f"round {self.number} train", len(self.rates), "steps") as tick:
            optimizer, totals = train(
                model,
                data,
                config.train,
                self.rates,
                seed=config.seed,
                state=state,
                snapshot=session.run.snapshot_path(self.key),
                key=self.key,
                tick=tick,
            )
        save_state(session.run.state_path(self.key), model.model, optimizer, {"key": self.key})
        session.run.snapshot_path(self.key).unlink(missing_ok=True)
        weight = max(totals.weight, 1e-30)
        return model, {
            "steps": totals.step,
            "trained_tokens": totals.trained_tokens,
            "body_tokens": totals.body_tokens,
            "loss": totals.loss / weight,
            "losses": totals.losses,
            "student_mass": totals.mass / max(totals.trained_tokens, 1),
            "largest_gradient": totals.grad_norm,
            "skipped": totals.skipped,
            "learning_rate": self.rates[-1],
            **drift(model, data, config.train),
        }

    def _data(self) -> TrainingData:
        store = self.session.store
        rollouts, teacher, selection = self.sources
        return load_training_data(
            [store.path(a, "rollouts") for a in rollouts],
            [store.path(a, "teacher") for a in teacher],
            store.path(selection, "selection"),
        )


def ensure_state(session: Session, number: int) -> Path:
    """Return the training state after a round, training it again where the state is gone.

    A round that a branch shares is trained by the run that it belongs to.
    """
    key = (session.run.round(number) or {})["checkpoint"]
    path = session.run.state_path(key)
    began = session.run.branch()
    if not path.is_file() and began is not None and number < began[1]:
        return ensure_state(_origin(session, began[0]), number)
    if not path.is_file():
        session.reporter.say(
            f"round {number:<3} train     its training state is gone: trained again from stored "
            "signals"
        )
        job = _job_of(session, number)
        if job.key != key:
            raise StoreError(
                f"round {number} of run {session.run.name} was trained with other settings, and "
                "its training state is gone: start a run under another name"
            )
        job.train()
    return path


def _origin(session: Session, name: str) -> Session:
    """Return the session of the run that a branch came from."""
    run = RunFolder(session.config.runs, name)
    stored = run.config()
    if stored is None:
        raise StoreError(
            f"run {session.run.name} branched off {name}, which is gone from {session.config.runs},"
            " and so is the training state it would start from: start a run under another name"
        )
    return Session(make_config(stored["config"], str(run.config_path)), session.reporter)


def _job_of(session: Session, number: int) -> _Job:
    """Return the training of a past round, from the run's pointers."""
    pointers = session.run.round(number) or {}
    rollouts = stored(session, "rollouts", pointers["rollouts"])
    teacher = stored(session, "teacher", pointers["teacher"])
    selection = stored(session, "selection", [pointers["selection"]])[0]
    return _Job(session, number, session.student(number), rollouts, teacher, selection)


def horizon(session: Session, steps: int) -> int:
    """Return the steps of the schedule: as set, or as fixed when the run was first started."""
    fixed = (session.run.config() or {}).get("horizon_rounds", session.config.rounds)
    return session.config.train.horizon or fixed * steps


def _drop_old_states(session: Session, number: int) -> None:
    keep = session.config.train.keep_states
    rounds = [session.run.round(n) or {} for n in range(max(0, number + 1 - keep), number + 1)]
    session.run.keep_states([r["checkpoint"] for r in rounds if "checkpoint" in r])
