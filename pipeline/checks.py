"""What is shown of a run before any work, check by check: of weights no more than headers is read.

A run stops at the first check that fails; `tip doctor` goes on, and adds what takes longer. Each
returns in words what it has looked at, says as a note what is odd, and raises a `TipError` with the
way out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from huggingface_hub import constants

from ..stages.engines.settings import SamplingSettings
from ..stages.engines.vllm.engine import require_vllm
from ..stages.models.attention import check_attention
from ..stages.models.card import ModelCard
from ..stages.models.compiled import cannot_compile, compiles
from ..stages.models.device import resolve_device, resolve_dtype
from ..stages.models.fingerprint import has_weights, weight_files
from ..stages.models.load import load_on_meta
from ..stages.models.merged import check_adapter
from ..stages.models.quantised import (
    check_quantised_teacher,
    quantised_by,
    refuse_quantised_student,
)
from ..stages.models.settings import ModelSettings
from ..stages.models.size import parameters_of
from ..stages.models.weights import Role
from ..stages.prompts.render import Prompt
from ..stages.prompts.settings import TextSettings
from ..stages.signals.fused import fuses
from ..stages.signals.fused_features import fuses_features
from ..stages.signals.fused_features import lack as lack_of_features
from ..stages.train.checkpointing import refuse_without_checkpointing
from ..stages.train.lora import lora_parameters, require_lora
from ..stages.train.optimizers import require_optimizer
from ..stages.train.worlds.launched import launched
from ..storage.errors import ConfigError, ModelError
from ..storage.files import user_path
from .actors import require_ray, share_of
from .config.run import RunConfig
from .inputs import Inputs

T = TypeVar("T")
_HERE = "transformers"  # the engine that uses a model as it is loaded here


@dataclass(frozen=True)
class Check(Generic[T]):
    """One thing to look at.

    needs: names of the checks without which nobody can. when: whether a config asks for it.
    of_machine: whether it looks at what this machine has, so that a plan for another leaves it out.
    """

    name: str
    needs: tuple[str, ...]
    look: Callable[[T], str]
    when: Callable[[RunConfig], bool] = lambda _: True
    of_machine: bool = False


def check_inputs(inputs: Inputs, *, elsewhere: bool = False) -> None:
    """Raise a `TipError` for the first that fails. elsewhere: leave out those of this machine."""
    for check in CHECKS:
        if check.when(inputs.config) and not (elsewhere and check.of_machine):
            check.look(inputs)


def check_answering(inputs: Inputs) -> None:
    """Raise a `TipError` where the teacher itself cannot be asked the problems."""
    card, config, settings = inputs.teacher_card, inputs.config, inputs.evaluation
    if config.teacher.server is not None and not has_weights(card.weights_folder):
        raise ConfigError(
            "the teacher's answers are its own to write, and its server gives log-probs alone: "
            f"teacher.model = {config.teacher.model!r} must be a folder with its weights"
        )
    longest = max(len(problem.ids) for problem in inputs.problems) + settings.max_tokens
    if longest > card.context:
        raise ConfigError(
            f"evaluate.max_tokens = {settings.max_tokens}: the longest problem and its answer take "
            f"{longest} tokens, and the teacher's context is {card.context}: lower it"
        )
    if settings.engine == "vllm":
        require_vllm()
    else:
        _computed(card, inputs)


def _student(inputs: Inputs) -> str:
    card, config = inputs.student_card, inputs.config
    sections: dict[str, SamplingSettings | None] = {
        "rollout": config.rollout,
        "evaluate": config.evaluate,
    }
    for name, section in sections.items():
        ids = section.stop_ids if section else ()
        if wrong := [i for i in ids if not 0 <= i < card.head_rows]:
            raise ConfigError(
                f"{name}.stop_ids holds {wrong[0]}, but the student's ids are 0 to "
                f"{card.head_rows - 1}"
            )
    if not {*card.stop_ids, *config.rollout.stop_ids}:
        inputs.say(
            f"{config.student.model}: no token ends a response, so each takes rollout.max_tokens = "
            f"{config.rollout.max_tokens}: set rollout.stop_ids"
        )
    return _described(card, config.student)


def _teacher(inputs: Inputs) -> str:
    return _described(inputs.teacher_card_alone, inputs.config.teacher)


def _described(card: ModelCard, settings: ModelSettings) -> str:
    names = {i: token for token, i in card.tokenizer.get_vocab().items()}
    stops = ", ".join(f"{i} {names.get(i)!r}" for i in card.stop_ids)
    context = f"{card.context:,}" if card.context < 1 << 31 else "any length"
    return (
        f"{settings.model}{_over(card)}: {card.head_rows:,} ids, a context of {context}, stops at "
        f"{stops or 'nothing'}"
    )


def _over(card: ModelCard) -> str:
    if card.adapter is None:
        return ""
    return f" (an adapter of rank {card.adapter.rank}, merged over {card.adapter.base} when needed)"


def _vocabulary(inputs: Inputs) -> str:
    cards = inputs.student_card, inputs.teacher_card
    shared = set.intersection(*({*card.tokenizer.get_vocab().values()} for card in cards))
    return f"{len(shared):,} ids name the same tokens"


def _student_weights(inputs: Inputs) -> str:
    card, settings = inputs.student_card, inputs.config.student
    _refuse_missing(card, settings)
    refuse_quantised_student(card)
    train = inputs.config.train
    told = _modules(card, "student", inputs, checkpointing=train.activation_checkpointing)
    if train.lora is None:
        return told
    trained = lora_parameters(load_on_meta(card), card, train.lora)
    return f"{told}; adapters of rank {train.lora.rank}: {trained / 1e6:,.1f} M parameters"


def _libraries(inputs: Inputs) -> str:
    train = inputs.config.train
    require_optimizer(train)
    if train.lora is not None:
        require_lora(train.lora, resolve_device(inputs.config.device))
    return "what adapters and the optimiser are computed with is here"


def _trains_with_more(config: RunConfig) -> bool:
    return config.train.lora is not None or config.train.optimizer != "adamw"


def _teacher_weights(inputs: Inputs) -> str:
    card, config = inputs.teacher_card_alone, inputs.config
    _refuse_missing(card, config.teacher)
    if config.score.engine == "vllm":  # which has classes and quantisations of its own
        return "to be read by vLLM"
    return _computed(card, inputs)


def _computed(card: ModelCard, inputs: Inputs) -> str:
    """Say with what transformers computes the teacher."""
    if (method := quantised_by(card)) is not None:
        check_quantised_teacher(card)
        return f"quantised ({method}), and what computes with it is here"
    return _modules(card, "teacher", inputs)


def _refuse_missing(card: ModelCard, settings: ModelSettings) -> None:
    """Raise `ModelError` for a folder without weights; those of a hub name may come later."""
    if user_path(settings.model).is_dir():
        weight_files(card.weights_folder)
    elif not has_weights(card.folder) and constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{settings.model}: the hub's cache has no weights of it, and HF_HUB_OFFLINE is set: "
            "start once with the hub in reach and HF_HUB_OFFLINE unset"
        )


def _modules(card: ModelCard, role: Role, inputs: Inputs, *, checkpointing: bool = False) -> str:
    if card.adapter is not None:
        check_adapter(card)
    _ = parameters_of(card)  # it names a file that is not whole
    model = load_on_meta(card)
    settings = inputs.config.student if role == "student" else inputs.config.teacher
    check_attention(model, card, role, settings.dtype, inputs.config.device)
    if checkpointing:
        refuse_without_checkpointing(model, card)
    config = model.config.get_text_config()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    layers, width = (getattr(config, n, "?") for n in ("num_hidden_layers", "hidden_size"))
    return (
        f"{type(model).__name__}: {layers} layers of {width}, {millions:,.1f} M "
        f"parameters, attention by {model.config._attn_implementation}"
    )


def _context(inputs: Inputs) -> str:
    student, teacher = inputs.rooms
    own = f", the teacher's own of up to {teacher:,}" if inputs.config.teacher.format else ""
    tokens = inputs.config.rollout.max_tokens
    return f"room for prompts of up to {student:,} tokens{own}, with responses of {tokens:,}"


def _prompt_file(inputs: Inputs) -> str:
    return f"{inputs.config.prompts.source}: {len(inputs.prompt_rows):,} rows"


def _prompts(inputs: Inputs) -> str:
    config, _ = inputs.config, inputs.round(0)
    _say(inputs, config.rollout.notes("rollout"))
    return f"{_rendered(inputs.prompts, config.prompts)}, {config.rollout.prompts:,} a round"


def _problem_file(inputs: Inputs) -> str:
    return f"{inputs.evaluation.source}: {len(inputs.problem_rows):,} rows"


def _problems(inputs: Inputs) -> str:
    _say(inputs, inputs.evaluation.notes("evaluate"))
    return f"{_rendered(inputs.problems, inputs.evaluation)}, with answers"


def _say(inputs: Inputs, notes: Sequence[str]) -> None:
    for note in notes:
        inputs.say(note)


def _rendered(prompts: Sequence[Prompt], settings: TextSettings) -> str:
    least, most = (found(len(prompt.ids) for prompt in prompts) for found in (min, max))
    tokens = f"{least:,} to {most:,}" if least < most else f"{most:,}"
    how = "by the chat template" if settings.template == "chat" else "as they are"
    return f"{len(prompts):,} of {tokens} tokens, {how}"


def _engines(inputs: Inputs) -> str:
    config = inputs.config
    wanted = {"rollout": config.rollout.engine, "score": config.score.engine}
    if config.evaluate is not None:
        wanted["evaluate"] = config.evaluate.engine
    if "vllm" in wanted.values():
        require_vllm()
    for role, section, stages in (
        ("student", config.student, ("rollout", "evaluate")),
        ("teacher", config.teacher, ("score",)),
    ):
        own = [wanted[stage] for stage in stages if wanted.get(stage, _HERE) != _HERE]
        if "vllm" in own:
            _refuse_few_gpus(role, section.vllm.tensor_parallel, config.device)
        if own and section.attn_implementation != "auto":
            inputs.say(
                f"{role}.attn_implementation = '{section.attn_implementation}' is for transformers "
                f"alone: {own[0]} computes attention in its own way"
            )
    return ", ".join(f"{stage} by {engine}" for stage, engine in wanted.items())


def _refuse_few_gpus(role: str, wanted: int, device: str) -> None:
    gpus = torch.cuda.device_count()
    if resolve_device(device).type == "cuda" and gpus < wanted:
        raise ConfigError(
            f"{role}.vllm.tensor_parallel = {wanted} needs as many GPUs, and {gpus} can be seen "
            "here: lower it, or see CUDA_VISIBLE_DEVICES"
        )


def _processes(inputs: Inputs) -> str:
    config = inputs.config
    wanted, gpus = config.train.processes, torch.cuda.device_count()
    hosts = launched()
    beside = wanted if hosts is None else hosts.beside
    if resolve_device(config.device).type == "cuda" and gpus < beside:
        raise ConfigError(
            f"{beside} processes that train on this host (train.processes, or what torchrun "
            f"started) need as many GPUs, and {gpus} can be seen here: lower that, or see "
            "CUDA_VISIBLE_DEVICES"
        )
    return f"{wanted} train together"


def _fused_loss(inputs: Inputs) -> str:
    config, device = inputs.config, resolve_device(inputs.config.device)
    fuses(config.train.fused, device, resolve_dtype(config.train.autocast, device))
    return f"Triton's kernels are right on {device}"


def _fused_scores(inputs: Inputs) -> str:
    device = resolve_device(inputs.config.device)
    fused = fuses_features(inputs.config.score.fused, device)
    if fused or device.type != "cuda":
        return f"Triton's kernels are right on {device}" if fused else f"not fused on {device}"
    note = f"scores are not fused: {lack_of_features(device)}"
    _say(inputs, [note])
    return note


def _compiled(inputs: Inputs) -> str:
    config, device = inputs.config, resolve_device(inputs.config.device)
    wanted = compiles(config.train.compile, device)
    wanted |= compiles(config.score.compile, device, "score.compile")
    if wanted or device.type != "cuda":
        return f"torch.compile works on {device}" if wanted else f"nothing is compiled on {device}"
    note = f"layers are not compiled: {cannot_compile(device)}"
    _say(inputs, [note])
    return note


def _workers(inputs: Inputs) -> str:
    workers, share = inputs.config.workers, share_of(inputs.config)
    require_ray()
    place = f"the cluster at {workers.address}" if workers.address else "a cluster of this host"
    number = f"{workers.actors} of them" if workers.actors else "as many as there is room for"
    return f"actors of {share} each, {number}, in {place}"


def _on_ray(config: RunConfig) -> bool:
    return config.workers.executor == "ray"


def _fuses(config: RunConfig) -> bool:
    return config.train.fused is True


def _fuses_scores(config: RunConfig) -> bool:
    return config.score.may_fuse


def _compiles(config: RunConfig) -> bool:
    # `auto` of training is the default, and says at its first step that it is in vain.
    return config.train.compile is True or config.score.compile is not False


def _trains_together(config: RunConfig) -> bool:
    return config.train.processes > 1


def _teacher_is_here(config: RunConfig) -> bool:
    return config.score.engine != "server"


def _generates(config: RunConfig) -> bool:
    return config.rollout.replay is None


def evaluates(config: RunConfig) -> bool:
    """Tell whether problems are asked."""
    return config.evaluate is not None


CHECKS: tuple[Check[Inputs], ...] = (
    Check("student", (), _student),
    Check("teacher", (), _teacher),
    Check("vocabulary", ("student", "teacher"), _vocabulary),
    Check("student weights", ("student",), _student_weights),
    Check("teacher weights", ("teacher",), _teacher_weights, _teacher_is_here),
    Check("context", ("vocabulary",), _context, _generates),
    Check("prompt file", (), _prompt_file, _generates),
    Check("prompts", ("context", "prompt file"), _prompts, _generates),
    Check("problem file", (), _problem_file, evaluates),
    Check("problems", ("vocabulary", "problem file"), _problems, evaluates),
    Check("engines", ("device",), _engines, of_machine=True),
    Check("libraries", ("device",), _libraries, _trains_with_more, of_machine=True),
    Check("processes", ("device",), _processes, _trains_together, of_machine=True),
    Check("fused loss", ("device",), _fused_loss, _fuses, of_machine=True),
    Check("fused scores", ("device",), _fused_scores, _fuses_scores, of_machine=True),
    Check("compiler", ("device",), _compiled, _compiles, of_machine=True),
    Check("workers", ("device",), _workers, _on_ray, of_machine=True),
)
