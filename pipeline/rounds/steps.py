"""Each stage of a round through the store: look up, else compute and commit; then say what it cost.

Every function takes a session and returns artifacts; whether something was made or found changes
nothing but the time it takes and the numbers it reports.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from ...stages.evaluate.evaluate import evaluate, evaluate_inputs, summary_of
from ...stages.evaluate.verdicts import Verifier
from ...stages.prompts.order import shards
from ...stages.prompts.render import Prompt
from ...stages.rollout.rollout import requests_of, roll_out, rollout_inputs, sampling_of
from ...stages.select.select import select, selection_inputs
from ...stages.select.settings import SelectSettings
from ...storage.columns import EVALUATION, ROLLOUTS, SELECTION, TOKENS, schema
from ...storage.errors import ConfigError, StoreError
from ...storage.facts import EvaluationFacts
from ...storage.keys import key_of
from ...storage.runs import RunFolder
from ...storage.store.artifacts import artifact_key
from ...storage.store.store import Artifact, Draft
from ...storage.tables import read_table, write_table
from ..engines import compute_of, look_ahead
from ..metrics import by_round
from ..progress import Stopwatch
from ..session import Session, Student, report
from ..stability import warning
from .scores import mean_over_tokens, score_shards


def ensure_rollouts(session: Session, number: int, student: Student) -> list[Artifact]:
    """Return the rollouts of a round, a shard an artifact; those of another run on replay."""
    watch, replay = Stopwatch(), session.config.rollout.replay
    if replay:
        found, made = replayed(session, replay, number), 0
    else:
        found, made = rollout_shards(
            session, student, session.round_prompts(number), f"round {number} rollout"
        )
    tokens, total = (sum(a.facts[name] for a in found) for name in ("tokens", "rollouts"))
    own = session.run.id
    report(
        session,
        number,
        "rollout",
        watch,
        f"{total} rollouts, {tokens:,} tokens: {made:,} generated, {tokens - made:,} reused"
        + (f" (replay of {replay})" if replay else ""),
        rollouts=total,
        tokens=tokens,
        generated_tokens=made,
        reused_tokens=tokens - made,
        own_tokens=sum(a.facts["tokens"] for a in found if a.facts.get("made_by") == own),
        truncated=sum(a.facts["truncated"] for a in found) / total,
        mean_length=tokens / total,
        **(session.engines.numbers() if made else {}),
    )
    session.run.update_round(number, student=student.key, rollouts=[a.key for a in found])
    return found


def rollout_shards(
    session: Session, student: Student, prompts: list[Prompt], title: str
) -> tuple[list[Artifact], int]:
    """Return the rollouts of some prompts and how many tokens had to be generated."""
    config = session.config
    settings = config.rollout
    sampling = sampling_of(settings, session.student_card.stop_ids, config.seed)
    dtype = compute_of(session, student.settings, settings.engine)
    found, made = [], 0
    parts = [*shards(prompts)]
    inputs_of = [
        rollout_inputs(student.fingerprint, dtype, part, settings, sampling) for part in parts
    ]
    missing = [
        requests_of(part, settings.samples)
        for part, inputs in zip(parts, inputs_of, strict=True)
        if session.store.find("rollouts", artifact_key("rollouts", inputs)) is None
    ]
    with session.reporter.bar(title, len(prompts) * settings.samples, "rollouts") as tick:
        for part, inputs in zip(parts, inputs_of, strict=True):

            def make(draft: Draft, part: list[Prompt] = part) -> dict[str, Any]:
                engine = session.engines.generating("student", student.settings, settings)
                asked = requests_of(part, settings.samples)
                ahead = missing[missing.index(asked) :] if asked in missing else []
                look_ahead(engine, ahead, sampling, settings.batch_size)
                table = roll_out(engine, part, settings.samples, sampling, tick)
                draft.table("rollouts", table, ROLLOUTS)
                return _rollout_facts(table) | {"made_by": session.run.id}

            artifact, fresh = session.store.ensure("rollouts", inputs, make)
            found.append(artifact)
            if fresh:
                made += artifact.facts["tokens"]
            else:
                tick(len(part) * settings.samples)
    return found, made


def replayed(session: Session, name: str, number: int) -> list[Artifact]:
    """Return the rollouts that another run used in the same round."""
    pointers = RunFolder(session.config.runs, name).round(number)
    if pointers is None or "rollouts" not in pointers:
        raise ConfigError(
            f"rollout.replay = {name!r}: that run has no round {number} under "
            f"{session.config.runs}; play it first, or lower `rounds`"
        )
    return stored(session, "rollouts", pointers["rollouts"])


def stored(session: Session, kind: str, keys: list[str]) -> list[Artifact]:
    """Return artifacts that pointers of a run name, or say which is gone."""
    found = []
    for key in keys:
        artifact = session.store.find(kind, key)
        if artifact is None:
            raise StoreError(
                f"{session.config.store}: {kind} {key} is not there any more; `tip run` with the "
                "config of the run that made it makes it again"
            )
        found.append(artifact)
    return found


def _rollout_facts(table: pa.Table) -> dict[str, Any]:
    return {
        "rollouts": table.num_rows,
        "tokens": len(table["response_ids"].combine_chunks().values),
        "truncated": table["stop_reason"].to_pylist().count("length"),
    }


def ensure_selection(
    session: Session, number: int, rollouts: list[Artifact], tokens: list[Artifact]
) -> Artifact:
    """Return the selected tokens of a round."""
    config, watch, store = session.config, Stopwatch(), session.store
    vocabulary = session.student_card.head_rows
    inputs = selection_inputs(config.select) | {
        "tokens": [[a.key, a.content] for a in tokens],
        "seed": config.seed,
        "vocabulary": vocabulary,
    }

    def make(draft: Draft) -> dict[str, Any]:
        table, facts = select(
            [store.path(a, "tokens") for a in tokens],
            [store.path(a, "rollouts") for a in rollouts],
            config.select,
            seed=config.seed,
            vocabulary=vocabulary,
            threads=config.threads,
        )
        draft.table("selection", table, SELECTION)
        return facts

    artifact, fresh = store.ensure("selection", inputs, make)
    facts = artifact.facts
    share = facts["kept"] / max(1, facts["trainable"])
    report(
        session,
        number,
        "select",
        watch,
        f"{config.select.rule}: {facts['kept']:,} of {facts['trainable']:,} tokens ({share:.1%})"
        + ("" if fresh else ", found"),
        **{k: v for k, v in facts.items() if k not in ("sql", "round")},
    )
    session.run.update_round(number, selection=artifact.key)
    told = warning(by_round(session.run.metrics()), number, config)
    if told:
        session.reporter.say(f"round {number:<3} warning   {told}")
    return artifact


def check_selection(settings: SelectSettings) -> None:
    """Show, on tables without rows, that a rule and its conditions can be used: before any work."""
    with TemporaryDirectory() as folder:
        paths = {}
        for name, columns in (("tokens", TOKENS), ("rollouts", ROLLOUTS)):
            paths[name] = Path(folder) / f"{name}.parquet"
            write_table(paths[name], schema(columns).empty_table(), columns)
        select([paths["tokens"]], [paths["rollouts"]], settings, seed=0, vocabulary=2, threads=1)


def ensure_evaluation(
    session: Session, number: int, student: Student, who: str = "student"
) -> dict[str, Any]:
    """Return the summary of a model's answers; number: rounds it has been trained for."""
    config, settings, watch = session.config, session.evaluation, Stopwatch()
    sampling = sampling_of(settings, session.student_card.stop_ids, config.seed)
    dtype = compute_of(session, student.settings, settings.engine)
    inputs = evaluate_inputs(student.fingerprint, dtype, session.problems, settings, sampling)
    total = len(session.problems) * settings.samples

    def make(draft: Draft) -> dict[str, Any]:
        engine = session.engines.generating(who, student.settings, settings)
        card = session.teacher_card if who == "teacher" else session.student_card
        problems, tokenizer = session.problems, card.tokenizer
        with (
            session.reporter.bar(f"round {number} evaluate", total, "answers") as tick,
            Verifier(settings.verifier, timeout=settings.timeout) as verifier,
        ):
            table = evaluate(engine, tokenizer, problems, settings, sampling, verifier, tick)
        draft.table("evaluation", table, EVALUATION)
        return EvaluationFacts(problems=len(problems)).dump()

    artifact, fresh = session.store.ensure("evaluation", inputs, make)
    table = read_table([session.store.path(artifact, "evaluation")])
    summary = summary_of(table, settings)
    numbers = {
        "accuracy": summary.mean,
        "low": summary.low,
        "high": summary.high,
        "pass_at": summary.pass_at,
        "truncated": summary.truncated,
        "problems": summary.problems,
        "samples": summary.samples,
    }
    if settings.reverse_kl and who == "student":
        numbers |= _held_out_divergence(session, number, student)
    asked = {name: value for name, value in inputs.items() if name != "model"}
    report(
        session,
        number,
        "evaluate" if who == "student" else f"evaluate {who}",
        watch,
        f"accuracy {summary.mean:.1%} (95 % {summary.low:.1%} to {summary.high:.1%}), "
        f"{summary.problems} problems"
        + (f", reverse KL {numbers['reverse_kl']:.4f} nats" if "reverse_kl" in numbers else "")
        + ("" if fresh else ", found"),
        asked=key_of(asked),
        **numbers,
    )
    return numbers


def _held_out_divergence(session: Session, number: int, student: Student) -> dict[str, Any]:
    """Return the mean reverse KL to the teacher on fresh rollouts of the problems, and its cost."""
    title = f"round {number} evaluate"
    rollouts, made = rollout_shards(session, student, session.problems, title)
    scores = score_shards(session, student, rollouts, title)
    return {
        "reverse_kl": mean_over_tokens(scores.tokens, "reverse_kl"),
        "generated_tokens": made,
        "teacher_tokens_scored": scores.scored,
    }
