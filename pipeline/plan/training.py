"""How much memory a device needs to train: what is kept of each parameter, and what is at work."""

from dataclasses import replace

from ...stages.models.size import Shape
from ...stages.train.optimizers import moment_bytes
from ...stages.train.settings import TrainSettings
from ..config.run import RunConfig
from .needs import Need, Parts, chunk
from .sizes import Sizes
from .target import Target

_FLOAT32, _HALF = 4, 2  # bytes a number
_FOUR_BITS = 0.5 + 4 / 64  # bytes a number: NF4, and a float32 for each block of 64
_PEFT = 55 << 20  # bytes that its import takes
_RANK = 470 << 20  # bytes of Python and its libraries in each process of a training on a CPU
_UNPACKED = 5  # copies of its largest parameter that bitsandbytes makes on a CPU in a step
_LONGEST_BY_PRODUCTS = 256  # tokens of a sequence whose attention scores are kept on a CPU
_UNDER_AUTOCAST = 1.65
"""Bytes a kept number where the body computes in 16 bits; some are kept in float32. As 9,216 tokens
of a body of 28 layers took 25.4 GB on an H100, its weights' 16-bit copies among them."""


def training(config: RunConfig, sizes: Sizes, target: Target) -> Need:
    """Return what training needs of each device."""
    settings, shape = config.train, sizes.student
    longest = sizes.prompt + config.rollout.max_tokens
    tokens = max(longest, min(settings.batch_tokens, settings.rollouts_per_step * longest))
    about = f"{tokens:,} tokens"
    if shape.parameters is None:
        return Need("train", about, None, None, settings.processes)
    kept = _kept(settings, sizes, target)
    activations = tokens * _layers(config, shape, longest, target)
    if not target.on_cpu and settings.autocast != "float32":
        activations = activations * _UNDER_AUTOCAST + _casts(settings, shape)
    else:
        activations *= _FLOAT32
    outside = _FLOAT32 * shape.vocabulary * shape.hidden
    logits, gradients = _logits(settings, shape, target), kept.gradients
    if settings.lora is None and (shape.tied and outside > activations + logits):
        # the gradient of the head is added to that of the embedding when no layer is held any more
        activations, logits, gradients = 0.0, 0.0, gradients + outside
    libraries = _PEFT if settings.lora is not None and target.on_cpu else 0
    parts = Parts(kept.parameters, gradients, kept.moments, activations, logits, process=libraries)
    if settings.processes > 1:
        parts, kept = _spread(parts, kept, sizes, settings)
    if settings.processes > 1 and target.on_cpu:  # all of them on one host
        each = settings.processes
        parts, kept = _times(parts, each), _times(kept, each)
        parts = replace(parts, process=each * (_RANK + libraries))
        return Need("train", f"{about} in each of {each} processes", parts, kept.total)
    return Need("train", about, parts, kept.total, settings.processes)


def may_fuse(settings: TrainSettings, target: Target) -> bool:
    """Tell whether a loss is taken to be fused: on a GPU, unless it is told not to be."""
    return not target.on_cpu and settings.fused is not False


def _logits(settings: TrainSettings, shape: Shape, target: Target) -> float:
    """Return the bytes of a chunk of logits, and of the head's 16-bit copy where one is made."""
    fused = may_fuse(settings, target)
    elements = settings.chunk(fused=fused)
    if not fused:
        return float(chunk(elements, target))
    if settings.autocast == "float32":
        return float(_FLOAT32 * elements)
    # the gradient of all its rows in 16 bits, the logits of a third of them
    copy = _HALF * shape.vocabulary * shape.hidden
    return (_HALF + _FLOAT32 / 3) * elements + copy


def _kept(settings: TrainSettings, sizes: Sizes, target: Target) -> Parts:
    """Return weights, gradients and moments of one process that holds them all."""
    frozen, trained = 0.0, float(sizes.student.parameters or 0)
    if settings.lora is not None:
        adapted, adapters = sizes.adapted(settings.lora)
        small = adapted if settings.lora.bits is not None else 0
        frozen = _FLOAT32 * (trained - small) + _FOUR_BITS * small
        trained = float(adapters)
    paged = settings.optimizer.startswith("paged") and not target.on_cpu
    moments = 0.0 if paged else trained * moment_bytes(settings.optimizer)
    if settings.optimizer.endswith("8bit") and target.on_cpu and settings.lora is None:
        moments += _UNPACKED * _FLOAT32 * sizes.student.vocabulary * sizes.student.hidden
    return Parts(frozen + _FLOAT32 * trained, _FLOAT32 * trained, moments)


def _layers(config: RunConfig, shape: Shape, longest: int, target: Target) -> float:
    """Return the numbers a token that all layers keep for the way back."""
    layer = 8 * shape.hidden + 3 * shape.attention // 2 + 5 * shape.inner
    if target.on_cpu and config.cpu.attention and longest <= _LONGEST_BY_PRODUCTS:
        layer += 2 * shape.heads * longest
    if config.train.activation_checkpointing:
        # a layer that is computed again is there whole, with its gradients, and on a CPU with gaps
        return shape.hidden * shape.layers + (3 if target.on_cpu else 2) * layer
    return layer * shape.layers


def _casts(settings: TrainSettings, shape: Shape) -> float:
    """Return the bytes of the layers' 16-bit copies that are kept for the way back."""
    body = (shape.parameters or 0) - shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    copies = _HALF * max(0, body)
    return copies / shape.layers if settings.activation_checkpointing else copies


def _spread(
    parts: Parts, kept: Parts, sizes: Sizes, settings: TrainSettings
) -> tuple[Parts, Parts]:
    """Return what each of several processes holds, at the height of work or of loading.

    Beside its share stand the embedding and the head, gathered, with the gradient of what learns
    there, and two layers. Until it is spread a process holds the whole float32 student.
    """
    shape, size = sizes.student, settings.processes
    parameters, ends = shape.parameters or 0, shape.vocabulary * shape.hidden
    ends *= 1 if shape.tied else 2
    layer = (parameters - ends) / shape.layers
    learns = settings.lora is None
    share = Parts(kept.parameters / size, kept.gradients / size, kept.moments / size)
    work = Parts(
        share.parameters + _FLOAT32 * (ends + 2 * layer),
        share.gradients + (_FLOAT32 * (ends + layer) if learns else 0),
        share.moments,
        parts.activations,
        parts.logits,
    )
    whole = _FLOAT32 * parameters
    if whole > work.total:
        work = Parts(share.parameters, loading=whole - share.parameters)
    return work, share


def _times(parts: Parts, factor: int) -> Parts:
    return Parts(*(factor * value for value in vars(parts).values()))
