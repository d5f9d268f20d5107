"""What a run is, and whether it is the same one: before any work, and again at every start.

A run is its resolved config, what the config names by a path (the rule's SQL, the prompts, the
models), and where it branched off. The run folder keeps all of it from the first start on.
"""

import secrets
from typing import Any

from ...stages.select.check import check_selection
from ...stages.select.rulebook import load_rule
from ...storage.errors import ConfigError
from ...storage.keys import key_of
from ...storage.runs import RunFolder, RunRecord
from ..checks import check_inputs
from ..config.run import RunConfig
from ..config.same import same_run
from ..config.toml import make_config
from ..session import Session
from .generators import check_room
from .losses import check_losses
from .residual import check_teacher

_WAY_OUT = "give this run another name (--name), its stored signals are shared"


def begin(session: Session) -> None:
    """Write what the run is into its folder, or show that it is the run already there.

    Raises `ConfigError` when the run was started with anything else that changes results.
    """
    named = check(session)
    run, config = session.run, session.config
    before = run.about()
    if before is None or not any(run.rounds()):
        identity = run.id or secrets.token_hex(8)  # a killed first start made shards
        before = RunRecord(id=identity, horizon_rounds=config.rounds, config={})
    now = {"config": config.model_dump(mode="json"), "content": named}
    run.save(before.model_copy(update=now))


def check(session: Session) -> dict[str, str]:
    """Meet a person's mistakes before any work; write nothing. Raises as `begin` does.

    Returns the run's `content`.
    """
    check_rule(session.config)
    _tell_idle_budget(session)
    check_usable(session)
    before = begun(session.run)
    check_settings(session.run, session.config, before)
    return check_content(session, before)


def check_rule(config: RunConfig) -> None:
    """Meet what is wrong with the selection, whatever machine the run is for."""
    check_selection(config.select)
    check_losses(config)


def _tell_idle_budget(session: Session) -> None:
    """Say it where a share or a number of tokens is set that the rule does not take.

    What a config of ours writes out (`public`, a model card) counts as set, too.
    """
    select = session.config.select
    own = load_rule(select.rule).keep
    if own is None:
        return
    if select.count is not None:
        idle = f"count = {select.count}"
    elif "keep" in select.model_fields_set and select.keep != own:
        idle = f"keep = {select.keep:g}"
    else:
        return
    session.inputs.say(
        f"rule `{select.rule}` takes {100 * own:g}% of what it ranks: select.{idle} says nothing "
        "to it; another rule does (`tip rules`)"
    )


def check_usable(session: Session) -> None:
    """Meet what models, prompts, problems and engines cannot do before any work."""
    check_inputs(session.inputs)
    check_room(session)
    check_teacher(session)


def begun(run: RunFolder) -> RunRecord | None:
    """Return the record of a run that has begun, None where it has not."""
    record = run.about()
    _refuse_half_a_branch(run, record)
    rounds, _ = list(run.rounds()), run.metrics()  # a damaged line is met here
    return record if rounds else None


def check_settings(run: RunFolder, config: RunConfig, before: RunRecord | None) -> None:
    """Raise where the run was begun with other settings. before: as `begun` gives it."""
    if before is not None and (changed := same_run(before.config, config)):
        old = make_config(before.config, str(run.config_path))
        first = changed[0]
        raise ConfigError(
            f"{_named(config)} was started with {first} = {_value(old, first)!r}, now it is "
            f"{_value(config, first)!r}"
            + (f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else "")
            + f": {_WAY_OUT}"
        )


def check_content(session: Session, before: RunRecord | None) -> dict[str, str]:
    """Return the run's `content`; raise where it was begun with another. before: see `begun`."""
    named = content(session)
    known = (before.content if before is not None else None) or {}
    for key, digest in named.items():
        if digest and known.get(key, digest) not in (digest, _as_written_before(session, key)):
            raise ConfigError(
                f"{_named(session.config)}: what {key} = {_value(session.config, key)!r} names has "
                f"changed since it was started: bring the old one back, or {_WAY_OUT}"
            )
    return named


def _named(config: RunConfig) -> str:
    return f"run {config.name} in {config.runs}"


def _refuse_half_a_branch(run: RunFolder, record: RunRecord | None) -> None:
    """Raise `ConfigError` for a branch that was stopped before it had all that it shares."""
    began = None if record is None else record.branch
    if began is not None and run.round(began.rounds - 1) is None:
        raise ConfigError(
            f"run {run.name} began to branch off {began.run}@{began.rounds} and was stopped: start "
            f"it again with --from {began.run}@{began.rounds}, or delete {run.path} to begin anew"
        )


def content(session: Session) -> dict[str, str]:
    """Return a digest of what each setting that is a name or a path stands for.

    That of weights is empty for a session that only looks and has never seen them hashed.
    """
    inputs = session.inputs
    digests = {
        "select.rule": key_of(load_rule(session.config.select.rule).sql),
        "student.model": inputs.student_card.fingerprint,
        "teacher.model": inputs.teacher_card.fingerprint,
    }
    if session.config.rollout.replay is None:
        # rounds are cut from shuffled hashes, so the order of lines changes nothing
        digests["prompts.source"] = key_of(sorted(p.hash for p in inputs.prompts))
    return digests


def _as_written_before(session: Session, key: str) -> str | None:
    """Return the digest by which earlier versions knew prompts: in the order of the file."""
    if key != "prompts.source":
        return None
    return key_of([p.hash for p in session.inputs.prompts])


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
