"""Evaluations between the rounds: problems with known answers, and a held-out divergence."""

from ...stages.evaluate.evaluate import evaluate_inputs, summary_of
from ...stages.holder import InVllm
from ...stages.models.weights import Weights
from ...stages.prompts.order import shards
from ...stages.rollout.rollout import sampling_of
from ...storage.facts import EvaluationFacts
from ...storage.keys import key_of
from ...storage.store.artifacts import artifact_key
from ...storage.tables import read_table
from ..metrics import EvaluateMetrics, by_round
from ..progress import Stopwatch
from ..session import Session
from ..stability import held_out_warning
from ..works.evaluation import EvaluateWork
from ..works.work import Made
from .generators import generator_of
from .held_out import held_out
from .report import report
from .rollouts import gap_of


def ensure_evaluation(session: Session, number: int, model: Weights) -> EvaluateMetrics:
    """Return what a model's answers came to; number: rounds it has been trained for."""
    settings, watch = session.inputs.evaluation, Stopwatch(session.store.ledger)
    made = _whole(session, model) or [
        each
        for result in session.executor.map(
            evaluate_works(session, model), f"round {number} evaluate"
        )
        for each in result
    ]
    summary = summary_of(
        read_table([session.store.path(each.artifact, "evaluation") for each in made]), settings
    )
    who = "evaluate" if model.role == "student" else f"evaluate {model.role}"
    more = {}
    if settings.reverse_kl and model.role == "student":
        more = held_out(session, number, model)
    gaps = [(each, EvaluationFacts.of(each.artifact).engine_gap) for each in made]
    metrics = EvaluateMetrics.model_validate(
        {
            "round": number,
            "stage": who,
            "asked": key_of({k: v for k, v in _inputs(session, model).items() if k != "model"}),
            "accuracy": summary.mean,
            "low": summary.low,
            "high": summary.high,
            "pass_at": summary.pass_at,
            "truncated": summary.truncated,
            "problems": summary.problems,
            "samples": summary.samples,
            "answers": [each.artifact.key for each in made],
            **more,
            **gap_of(gaps),
        }
    )
    divergence = metrics.reverse_kl
    report(
        session,
        watch,
        f"accuracy {summary.mean:.1%} (95 % {summary.low:.1%} to {summary.high:.1%}), "
        f"{summary.problems} problems"
        + ("" if divergence is None else f", reverse KL {divergence:.4f} nats")
        + ("" if any(each.fresh for each in made) else ", found"),
        metrics,
    )
    worse = held_out_warning(by_round(session.run.metrics()), number, session.config)
    if model.role == "student" and worse is not None:
        session.reporter.say(f"round {number:<3} warning   {worse}")
    return metrics


def evaluate_works(session: Session, model: Weights) -> list[EvaluateWork]:
    """Return what answers all problems: works of as many shards as fill a batch.

    One work where vLLM generates, whose batch is filled from what comes next.
    """
    config, settings = session.config, session.inputs.evaluation
    generator = generator_of(session, model, settings)
    sampling = sampling_of(settings, session.inputs.student_card.stop_ids, config.seed)
    parts = [tuple(part) for part in shards(session.inputs.problems)]
    size = len(parts)
    if not isinstance(generator, InVllm):
        size = max(1, settings.batch_size // (len(parts[0]) * settings.samples))
    groups = [tuple(parts[start : start + size]) for start in range(0, len(parts), size)]
    return [EvaluateWork(generator, group, settings, sampling, session.run.id) for group in groups]


def _whole(session: Session, model: Weights) -> list[Made] | None:
    """Return the answers to all problems as one artifact, as older versions stored them."""
    inputs = _inputs(session, model)
    artifact = session.store.find("evaluation", artifact_key("evaluation", inputs))
    return None if artifact is None else [Made(artifact, fresh=False)]


def _inputs(session: Session, model: Weights) -> dict:
    settings, problems = session.inputs.evaluation, session.inputs.problems
    sampling = sampling_of(settings, session.inputs.student_card.stop_ids, session.config.seed)
    compute = model.compute(settings.engine)
    return evaluate_inputs(model.fingerprint, compute, problems, settings, sampling)
