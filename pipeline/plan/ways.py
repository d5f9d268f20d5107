"""What to change where a stage does not fit: candidates are planned, and those that fit are told.

They stand in the order of what they cost: time, then digits, then devices, then what is learnt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...storage.errors import TipError
from ..config.run import RunConfig
from ..config.toml import make_config
from .memory import may_fuse_scores, memory_of
from .needs import Need
from .sizes import Sizes
from .target import Target
from .training import may_fuse

_MOST = 3
_DEVICES = (2, 4, 8, 16)
_LEAST_CHUNK = 1 << 22  # logits; smaller ones save little


@dataclass(frozen=True)
class Way:
    """Changes of settings, by dotted name, after which a stage fits. bytes: that it needs then."""

    changes: dict[str, Any]
    costs: str
    bytes: float


@dataclass(frozen=True)
class _Change:
    values: dict[str, Any]
    costs: str


_Choice = tuple[_Change, ...]  # the same change, less of it first


def ways(config: RunConfig, sizes: Sizes, target: Target, need: Need) -> list[Way]:
    """Return the three cheapest changes that let a stage fit, fewer where no more do."""
    stage = need.stage.split()[0]
    mild, strong = _candidates(stage, config, sizes, target)
    milder = [(), *((m,) for m in mild), tuple(mild)]
    found: list[Way] = []
    for choice in ((), *strong):
        way = next(_fitting(choice, milder, config, sizes, target, stage), None)
        if way is not None:
            found.append(way)
        if len(found) == _MOST:
            break
    return found


def _fitting(
    choice: _Choice,
    milder: list[tuple[_Change, ...]],
    config: RunConfig,
    sizes: Sizes,
    target: Target,
    stage: str,
) -> Iterator[Way]:
    """Give the ways that fit: each degree of a strong change, alone and beside mild ones."""
    for strong in choice or (None,):
        for beside in milder:
            changes = [*beside, *([strong] if strong else [])]
            values = {name: value for change in changes for name, value in change.values.items()}
            if not values:
                continue
            try:
                needs = memory_of(changed(config, values), sizes, target)
            except TipError:  # settings that do not go together, layers that are not there
                continue
            own = [n for n in needs if n.stage.split()[0] == stage]
            if own and all(n.fits(target) for n in own):
                costs = ", ".join(change.costs for change in reversed(changes))
                yield Way(values, costs, max(n.bytes or 0 for n in own))


def changed(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return a config with settings changed by their dotted names; it is checked as one of a file.

    Raises `ConfigError` where they do not go together.
    """
    plain = config.model_dump(mode="json")
    for name, value in values.items():
        *sections, last = name.split(".")
        section = plain
        for each in sections:
            section = section[each]
        section[last] = value
    return make_config(plain, "the plan")


def _candidates(
    stage: str, config: RunConfig, sizes: Sizes, target: Target
) -> tuple[list[_Change], list[_Choice]]:
    """Return mild changes, which cost time and go together, and strong ones, one at a time."""
    if stage == "train":
        return _of_training(config, sizes, target)
    if stage == "score":
        return _of_scoring(config, sizes, target)
    mild, strong = _of_generation(stage, config, target)
    if config.evaluate and config.evaluate.reverse_kl and config.score.mode == "joint":
        scoring = _of_scoring(config, sizes, target)  # for the teacher is there as well
        mild, strong = [*mild, *scoring[0]], [*strong, *scoring[1]]
    return mild, strong


def _of_training(
    config: RunConfig, sizes: Sizes, target: Target
) -> tuple[list[_Change], list[_Choice]]:
    train, mild = config.train, []
    longest = sizes.prompt + config.rollout.max_tokens
    if train.batch_tokens > longest:
        mild.append(_Change({"train.batch_tokens": longest}, "smaller micro-batches"))
    if not train.activation_checkpointing:
        checkpointing = {"train.activation_checkpointing": True}
        mild.append(_Change(checkpointing, "each layer is computed a second time"))
    fused = may_fuse(train, target)
    mild += _smaller_chunk("train", train.chunk(fused=fused))
    if fused:
        mild.append(_Change({"train.fused": False}, "more passes over the logits"))
    strong: list[_Choice] = []
    if train.optimizer == "adamw" and train.lora is None and train.processes == 1:
        if not target.on_cpu:
            paged = {"train.optimizer": "paged_adamw"}
            strong.append((_Change(paged, "moments travel from the host and back"),))
        eight = {"train.optimizer": "adamw8bit"}
        strong.append((_Change(eight, "moments rounded to 8 bits"),))
    if not target.on_cpu:
        strong.append(_more_devices("train.processes", train.processes))
    if train.lora is None:
        adapters = {"train.lora": {"rank": 32}}
        strong.append(
            (_Change(adapters, "adapters alone learn, with an lr some ten times higher"),)
        )
    if not target.on_cpu and (train.lora is None or train.lora.bits is None):
        rank = 32 if train.lora is None else train.lora.rank
        small = {"train.lora": {"rank": rank, "bits": 4}}
        strong.append((_Change(small, "adapters alone learn, over a base of 4 bits"),))
    return mild, strong


def _of_scoring(
    config: RunConfig, sizes: Sizes, target: Target
) -> tuple[list[_Change], list[_Choice]]:
    score, teacher, mild, strong = config.score, config.teacher, [], []
    longest = sizes.shown + config.rollout.max_tokens
    if score.batch_tokens > longest and score.engine == "transformers":
        mild.append(_Change({"score.batch_tokens": longest}, "smaller batches"))
    mild += _smaller_chunk("score", score.chunk(fused=may_fuse_scores(score, target)))
    apart: dict[str, Any] = {}
    if score.mode == "joint":
        apart = {"score.mode": "separate"}
        strong.append((_Change(apart, "divergences over the support alone"),))
    if teacher.dtype == "float32" or (target.on_cpu and teacher.dtype == "auto"):
        half = {"teacher.dtype": "bfloat16"}
        strong.append((_Change(half, "the teacher's weights rounded"),))
    if score.engine != "server":
        if not target.on_cpu:
            inside = apart | {"score.engine": "vllm"}
            parallel = teacher.vllm.tensor_parallel
            if teacher.vllm.quantization is None:
                eight = inside | {"teacher.vllm.quantization": "fp8"}
                strong.append((_Change(eight, "the teacher's weights rounded to 8 bits"),))
            more = _more_devices("teacher.vllm.tensor_parallel", parallel)
            strong.append(tuple(_Change(inside | c.values, c.costs) for c in more))
        served = apart | {
            "score.engine": "server",
            "teacher.server": {"url": "http://HOST:8000"},
        }
        strong.append((_Change(served, "the teacher on another machine"),))
    return mild, strong


def _of_generation(
    stage: str, config: RunConfig, target: Target
) -> tuple[list[_Change], list[_Choice]]:
    terms = config.evaluate if stage == "evaluate" else config.rollout
    assert terms is not None  # the stage is there
    student, strong = config.student, []
    if terms.engine != "vllm":
        halves = [terms.batch_size >> n for n in range(1, terms.batch_size.bit_length())]
        smaller = (_Change({f"{stage}.batch_size": n}, "fewer rows at once") for n in halves)
        strong.append(tuple(smaller))
    if student.dtype == "float32" or (target.on_cpu and student.dtype == "auto"):
        half = {"student.dtype": "bfloat16"}
        strong.append((_Change(half, "the student samples with rounded weights"),))
    if not target.on_cpu:
        inside = {f"{stage}.engine": "vllm"}
        more = _more_devices("student.vllm.tensor_parallel", student.vllm.tensor_parallel)
        strong.append(tuple(_Change(inside | c.values, c.costs) for c in more))
    return [], [choice for choice in strong if choice]


def _more_devices(name: str, now: int) -> _Choice:
    return tuple(_Change({name: n}, f"{n} devices") for n in _DEVICES if n > now)


def _smaller_chunk(stage: str, elements: int) -> list[_Change]:
    if elements <= _LEAST_CHUNK:
        return []
    return [_Change({f"{stage}.chunk_elements": _LEAST_CHUNK}, "smaller chunks of logits")]
