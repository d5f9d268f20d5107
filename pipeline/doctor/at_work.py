"""What shows only where something runs: models with their weights, vLLM, a server, a verifier.

Weights that are here are read; none is fetched, hashed or written.
"""

import numpy as np
import torch

from ...stages.engines.local.continuing import takes_padding
from ...stages.engines.probe import KNOWN_TOKENS, reference_logprobs
from ...stages.evaluate.verdicts import Verifier, reference_answer
from ...stages.holder import Holder, InVllm, Reader, as_arrays
from ...stages.models.fingerprint import has_weights
from ...stages.models.language_model import LanguageModel
from ...stages.models.merged import find_merged
from ...stages.models.size import parameters_of
from ...stages.models.weights import Weights
from ...stages.train.checkpointing import checkpoint_activations, refuse_noise
from ...storage.errors import ConfigError
from ..plan.target import memory_of
from ..rounds.generators import generator_of, reader_of
from ..rounds.served import ask_once
from ..show.cells import size
from .examined import Examined, NotLookedError

_LOADED = "its logits are those of its head, and no state looks ahead"


def student(examined: Examined) -> str:
    """Load the student, and let it read and write a few tokens as rollouts and training do."""
    config, weights = examined.config, examined.inputs.first_student
    sections = [config.rollout, *([config.evaluate] if config.evaluate else [])]
    shown = _LOADED
    with examined.holder() as holder:
        model = _loaded(examined, holder, weights)
        if "transformers" in {section.engine for section in sections}:
            takes_padding(model)
            shown += "; token by token it computes what it computes at once"
        if config.train.activation_checkpointing:
            checkpoint_activations(model)
        refuse_noise(model, np.arange(KNOWN_TOKENS) % model.vocabulary)
    return shown


def teacher(examined: Examined) -> str:
    """Load the teacher."""
    with examined.holder() as holder:
        _loaded(examined, holder, examined.inputs.teacher_alone("transformers"))
    return _LOADED


def _loaded(examined: Examined, holder: Holder, weights: Weights) -> LanguageModel:
    """Return a model, shown at its load to be what is said of it, if there is room for it."""
    _refuse_unmerged(examined, weights)
    if not has_weights(weights.card.weights_folder):
        raise NotLookedError("its weights are not here yet; `tip run` fetches them")
    width = getattr(torch, weights.dtype).itemsize
    takes, free = (parameters_of(weights.card) or 0) * width, memory_of(holder.device).free
    if takes > free:
        raise NotLookedError(f"its weights take {size(takes)}, and {size(free)} are free")
    try:
        return holder.model(weights)
    except torch.OutOfMemoryError as error:
        raise NotLookedError("it does not fit into the memory that is free now") from error


def _refuse_unmerged(examined: Examined, weights: Weights) -> None:
    """Raise `NotLookedError` for an adapter's model that a run would make first."""
    card = weights.card
    if card.adapter is not None and find_merged(examined.session.store, card) is None:
        raise NotLookedError(
            f"its adapter is not merged over {card.weights_folder} yet; `tip run` does that when "
            "the model is first needed"
        )


def student_in_vllm(examined: Examined) -> str:
    """Start the student's engine, and compare it with the student."""
    config, weights = examined.config, examined.inputs.first_student
    section = config.rollout if config.rollout.engine == "vllm" else config.evaluate
    assert section is not None  # one of the two has the engine
    _refuse_unmerged(examined, weights)
    wanted = generator_of(examined.session, weights, section)
    with examined.holder() as holder:

        def reference(asked: InVllm) -> np.ndarray:
            return reference_logprobs(holder.model(weights), as_arrays(asked.probes))

        gap = holder.generator(wanted, reference).gap
    return "vLLM runs it" + (f", {gap.mean:.2g} nats a token from transformers" if gap else "")


def teacher_in_vllm(examined: Examined) -> str:
    """Start the teacher's engine."""
    wanted = reader_of(examined.session)
    assert isinstance(wanted, Reader)  # the config says so
    _refuse_unmerged(examined, wanted.weights)
    with examined.holder() as holder:
        given_ids = holder.scorer(wanted).given_ids
    if not given_ids:
        examined.notes.say(
            "vLLM runs it, and cannot be asked for the student's ids on this device: those beyond "
            f"the teacher's first {wanted.top} (score.engine_top) go to the tail"
        )
    return "vLLM runs it, and can be asked for the student's ids"


def server(examined: Examined) -> str:
    """Ask the teacher's server once."""
    return ask_once(examined.session)


def verifier(examined: Examined) -> str:
    """Have a known answer checked, and every reference as if it were an answer."""
    settings, problems = examined.inputs.evaluation, examined.inputs.problems
    answers = [problem.answer or "" for problem in problems]
    pairs = [(rf"\boxed{{{reference_answer(answer)}}}", answer) for answer in answers]
    with Verifier(settings.verifier, timeout=settings.timeout) as asked:
        if settings.verifier == "math" and not asked.verdicts([(r"\boxed{0.5}", "1/2")])[0].correct:
            raise ConfigError(
                "verifier = 'math' does not see that 0.5 is 1/2: install math-verify anew"
            )
        verdicts = asked.verdicts(pairs)
    wrong = [a for a, v in zip(answers, verdicts, strict=True) if not v.correct]
    if wrong:
        examined.notes.say(
            f"{len(wrong)} of {len(answers)} references would be wrong as answers, the first is "
            f"{wrong[0][:40]!r}: no response can be right there; mend evaluate.source or .answer"
        )
    return f"{settings.verifier}: each of {len(answers):,} references is right as an answer"
