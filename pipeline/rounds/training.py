"""The train stage of a round: a checkpoint that is shared, a training state that is not.

The next round trains from the state (float32 masters, moments). States are kept for the last
rounds only; one that is needed and not there is made by training that round from its stored
signals, which gives the same numbers and costs no generation and no teacher.
"""

from dataclasses import replace
from pathlib import Path

from ...stages.models.device import resolve_dtype
from ...stages.models.weights import Weights
from ...stages.train.schedule import learning_rates
from ...stages.train.state import drop_state
from ...stages.train.train import steps_of
from ...storage.errors import InputError, StoreError
from ...storage.facts import (
    CheckpointFacts,
    ClipFacts,
    ResidualFacts,
    RolloutFacts,
    SelectionFacts,
)
from ...storage.runs import RoundPointers, RunFolder
from ...storage.store.store import Artifact
from ..metrics import TrainMetrics
from ..progress import Stopwatch
from ..session import Session
from ..works.together import together
from ..works.training import RestoreWork, TrainWork
from .generators import probes_of
from .losses import check_selected
from .replay import stored
from .report import report


def ensure_training(
    session: Session,
    number: int,
    student: Weights,
    rollouts: list[Artifact],
    teacher: list[Artifact],
    selection: Artifact,
) -> Artifact:
    """Return the checkpoint of a round's training.

    Its state may still be written afterwards: see `settle_state`.
    """
    watch = Stopwatch(session.store.ledger)
    work = train_work(session, number, student, rollouts, teacher, selection)
    if asked := work.found(session.store) is None:
        _refuse_nothing(session, selection)
        check_selected(session.config, SelectionFacts.of(selection))
        if number:
            settle_state(session, number - 1)
            work = replace(work, start=ensure_state(session, number - 1, student.key))
        session.run.point(number, owes=work.key)
    ((made,),) = session.executor.map([work], f"round {number} train")
    facts = CheckpointFacts.of(made.artifact)
    skipped = f", {facts.skipped} steps skipped (not finite)" if facts.skipped else ""
    sampled = _sampled(facts.residual) if facts.residual else ""
    cut = _cut(facts.clip) if facts.clip else ""
    compiled = f", {facts.compile_seconds:.0f} s of compiling" if facts.compile_seconds else ""
    numbers = facts.dump() | {"round": number, "stage": "train", "fresh": made.fresh}
    report(
        session,
        watch,
        f"{facts.steps} steps on {facts.trained_tokens:,} tokens: loss {facts.loss:.4f}"
        f"{cut}{skipped}{sampled}{compiled}" + ("" if made.fresh else ", found"),
        TrainMetrics.model_validate(numbers),
    )
    session.run.point(number, checkpoint=made.artifact.key)
    later = session.run.round(number + 1)
    ahead = later is not None and later.checkpoint is not None  # of an earlier, longer start
    if not ahead and not session.run.point_final(session.store.address(made.artifact)):
        session.reporter.say(
            f"note: {session.run.final} is a folder, not a link: remove it, and the next start "
            "makes it a link to the last student"
        )
    if not made.fresh:
        if asked:  # another run has trained it meanwhile: the next round sees to a state
            session.run.point(number, owes=None)
        settle_state(session, number)
    return made.artifact


def settle_state(session: Session, number: int) -> None:
    """See to it that the state of a round is on the disk, and drop what it takes the place of.

    Before the next training begins, and before the run ends. What a kill has left to be written is
    made again. Raises `StoreError` where the state could not be written.
    """
    session.executor.settle()
    pointers = session.run.round(number)
    if pointers is None or pointers.checkpoint is None:
        return
    if pointers.owes == pointers.checkpoint:  # a run that only looks at its rounds owes nothing
        ensure_state(session, number, pointers.checkpoint)
        drop_old_states(session, number)
        session.run.point(number, owes=None)
    session.run.drop_snapshot(pointers.checkpoint)  # not before: it may be what spares the steps


def train_work(
    session: Session,
    number: int,
    student: Weights,
    rollouts: list[Artifact],
    teacher: list[Artifact],
    selection: Artifact,
) -> TrainWork:
    """Return one round's training; where it starts from is left open."""
    config, run = session.config, session.run
    steps = steps_of(sum(RolloutFacts.of(a).rollouts for a in rollouts), config.train)
    dtype = resolve_dtype(config.train.autocast, session.device)
    work = TrainWork(
        student,
        tuple(rollouts),
        tuple(teacher),
        selection,
        config.train,
        str(dtype).removeprefix("torch."),
        learning_rates(config.train, horizon(session, steps), number * steps, steps),
        config.seed,
        start=None,
        state=run.path,
        snapshot=run.path,
        probes=probes_of(session),
        base=None if config.train.lora is None else session.inputs.first_student,
        together=together(config, run.path) if config.train.processes > 1 else None,
    )
    return replace(work, state=run.state_path(work.key), snapshot=run.snapshot_path(work.key))


def ensure_state(session: Session, number: int, key: str) -> Path:
    """Return the training state after a round, training it again where the state is gone.

    key: of the round's training, as the student that is trained further has it. Where earlier
    states are gone as well, training begins after the last one that is there. A round that a branch
    shares is trained by the run that it belongs to; who runs works decides in which process.
    """
    missing: list[tuple[Session, int, TrainWork]] = []
    while (state := session.run.find_state(key)) is None:
        origin = _origin(session, number)
        if origin is not None:
            session = origin
            continue
        work = _past_training(session, number)
        if work.key != key:
            raise StoreError(
                f"round {number} of run {session.run.name} was trained with other settings, and "
                "its training state is not here: start a run under another name"
            )
        missing.append((session, number, work))
        if number == 0:
            break
        number, key = number - 1, work.student.key
    for place, (owner, number, work) in enumerate(reversed(missing)):
        owner.reporter.say(
            f"round {number:<3} train     its training state is not here: trained again from "
            "stored signals"
        )
        restore = RestoreWork(replace(work, start=state))
        with owner.run.held():
            owner.executor.map([restore], f"round {number} train")
            owner.run.drop_snapshot(work.key)
        if place and state is not None:
            drop_state(state)  # made here on the way to a later one
        state = work.state
    assert state is not None  # where nothing was found, round 0 was trained
    return state


def _origin(session: Session, number: int) -> Session | None:
    """Return the session of the run that a branch shares a round with, None for its own round."""
    began = session.run.branch()
    if began is None or number >= began[1]:
        return None
    origin = RunFolder(session.config.runs, began[0])
    if origin.about() is None:
        raise StoreError(
            f"run {session.run.name} branched off {began[0]}, which is gone from "
            f"{session.config.runs}, and so is the training state it would start from: start a run "
            "under another name"
        )
    return session.of(origin)


def _past_training(session: Session, number: int) -> TrainWork:
    """Return the training of a past round, from the run's pointers."""
    pointers = session.run.round(number) or RoundPointers()
    (selection,) = stored(session, "selection", [str(pointers.selection)])
    return train_work(
        session,
        number,
        session.student(number),
        stored(session, "rollouts", pointers.rollouts or ()),
        stored(session, "teacher", pointers.teacher or ()),
        selection,
    )


def horizon(session: Session, steps: int) -> int:
    """Return the steps of the schedule: as set, or as fixed when the run was first started."""
    about = session.run.about()
    fixed = None if about is None else about.horizon_rounds
    return session.config.train.horizon or (fixed or session.config.rounds) * steps


def _sampled(residual: ResidualFacts) -> str:
    """Return what a person is told of the tokens that were sampled outside their support."""
    told = f", {residual.outside:.1%} sampled outside the support"
    if residual.clipped:
        told += f" ({residual.clipped:.2%} clipped: {residual.clipped_off:.1%} of the residual)"
    return told


def _cut(clip: ClipFacts) -> str:
    """Return what a person is told of the limit of a token's divergence."""
    return f" ({clip.nats:.4f} taken off {clip.tokens:.1%} of the tokens)"


def _refuse_nothing(session: Session, selection: Artifact) -> None:
    """Refuse a training on no token: every round after it would be the same again."""
    facts, select = SelectionFacts.of(selection), session.config.select
    if facts.kept or not facts.trainable:
        return
    who = "select.where" if select.where else f"rule {select.rule}"
    raise InputError(
        f"{who} keeps none of the round's {facts.trainable:,} trainable tokens, so there is "
        "nothing to train on: `tip sql` shows what the tokens are like; loosen it"
    )


def drop_old_states(session: Session, number: int, *, ended: bool = False) -> None:
    """Delete training states but those of the last rounds up to `number`. ended: the run has."""
    keep = session.config.train.states(ended=ended)
    rounds = [session.run.round(n) for n in range(max(0, number + 1 - keep), number + 1)]
    session.run.keep_states([r.checkpoint for r in rounds if r is not None and r.checkpoint])
