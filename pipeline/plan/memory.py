"""How much memory a device needs in each stage, from configs and the headers of weights alone.

What a body holds at work is counted from its widths as measured on models of Llama's kind. A CPU's
memory also holds the process itself, and the file that weights are read from until they are there.
"""

from dataclasses import dataclass, replace

from ...stages.engines.settings import SamplingSettings
from ...stages.engines.vllm.spec import scoring_batch
from ...stages.models.settings import VllmSettings
from ...stages.models.size import Shape
from ...stages.prompts.order import PROMPTS_PER_SHARD
from ...stages.score.settings import ScoreSettings
from ..config.run import RunConfig
from ..progress import resident
from .needs import Need, Parts, chunk
from .sizes import Sizes
from .target import Target
from .training import training

_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTISED = {"fp8": 1.0, "bitsandbytes": 0.5 + 4 / 64}  # bytes a weight, by vLLM's names
_LIBRARIES = 130 << 20  # bytes that a process takes with its first model, beside the model
_DRAWING = 20  # bytes a logit while a token is drawn: the last ones, these, their float64 shares
_VLLM_BATCH = 8192  # tokens that vLLM's engine reads at once on a GPU where nothing else is said


@dataclass(frozen=True)
class Loaded:
    """A model in memory. width: bytes a number at work. weights: None where they are not known.

    file: bytes that are read beside, on a CPU.
    """

    shape: Shape
    width: int
    weights: float | None
    file: int

    def passing(self, tokens: int) -> int:
        """Return what a layer holds while tokens pass through the body."""
        shape = self.shape
        return tokens * self.width * (4 * shape.hidden + shape.attention + 3 * shape.inner)

    def at_work(self, *, beside: float = 0, **parts: float) -> Parts | None:
        """Return the most of loading the model, and of working with `parts`.

        beside: bytes of weights of another model that is there.
        """
        if self.weights is None:
            return None
        held = Parts(parameters=self.weights + beside)
        work = replace(held, **parts)
        return work if work.total >= held.total + self.file else replace(held, loading=self.file)


def memory_of(config: RunConfig, sizes: Sizes, target: Target) -> list[Need]:
    """Return what each stage needs of a device."""
    student = _loaded(config.student.dtype, sizes.student, target)
    teacher = _loaded(config.teacher.dtype, sizes.teacher, target, packed=sizes.packed)
    asked = config.rollout.prompts
    if target.on_cpu:  # where a batch stays in its shard
        asked = min(asked, PROMPTS_PER_SHARD)
    rows = asked * config.rollout.samples
    vllm = config.student.vllm
    rollout = _generating("rollout", student, config.rollout, vllm, sizes.prompt, rows, target)
    score = _scoring(config, student, teacher, sizes.shown, target)
    needs = [rollout, *score, training(config, sizes, target)]
    if config.evaluate:
        rows = sizes.problems * config.evaluate.samples
        evaluate = _generating(
            "evaluate", student, config.evaluate, vllm, sizes.problem, rows, target
        )
        if config.evaluate.reverse_kl and config.score.mode == "joint":
            # the held-out rollouts are scored as well, and the teacher stays for the next round's
            needs[0] = _beside(rollout, teacher.weights)
            scored = replace(score[0], stage="evaluate")
            evaluate = max(evaluate, scored, key=lambda need: need.bytes or 0)
        needs.append(evaluate)
    if not target.on_cpu:
        return needs
    process = float(resident() + _LIBRARIES)
    needs = [need.with_more(process=process) for need in needs]
    return [*needs, Need("process", "in each of these", Parts(process=process), None)]


def _loaded(dtype: str, shape: Shape, target: Target, *, packed: bool = False) -> Loaded:
    auto = "float32" if target.on_cpu else "bfloat16"
    width = _BYTES[auto if dtype == "auto" else dtype]
    weights = None if shape.parameters is None else float(shape.parameters * width)
    if packed and shape.file:
        weights = float(shape.file)
    return Loaded(shape, width, weights, shape.file if target.on_cpu else 0)


def _beside(need: Need, weights: float | None) -> Need:
    return replace(need, parts=None) if weights is None else need.with_more(parameters=weights)


def _generating(
    stage: str,
    student: Loaded,
    terms: SamplingSettings,
    vllm: VllmSettings,
    prompt: int,
    rows: int,
    target: Target,
) -> Need:
    """Return what writing responses needs. prompt: tokens of the longest. rows: responses."""
    longest = prompt + terms.max_tokens
    if terms.engine == "vllm":
        return _in_vllm(stage, student, vllm, longest, vllm.batch_tokens or _VLLM_BATCH, 0, target)
    shape, rows = student.shape, min(terms.batch_size, rows)
    rooms = 2 if terms.graphs and not target.on_cpu else 1  # while they are made anew
    parts = student.at_work(
        cache=rooms * rows * longest * shape.cache_elements * student.width,
        **_larger(
            logits=_DRAWING * rows * shape.vocabulary,
            activations=student.passing(rows * prompt),
        ),
    )
    return Need(stage, f"{rows:,} x {longest:,} tokens", parts, student.weights)


def _in_vllm(
    stage: str,
    model: Loaded,
    vllm: VllmSettings,
    longest: int,
    batch: int,
    logits: int,
    target: Target,
) -> Need:
    """Return what vLLM needs for a sequence at a time; on a GPU it fills its share with more.

    batch: tokens read at once. logits: bytes of those of a batch.
    """
    cards, weights = vllm.tensor_parallel, model.weights
    if weights is None:
        return Need(stage, "vLLM", None, None, cards)
    if target.on_cpu:
        parts = Parts(weights, logits=logits, cache=vllm.cpu_cache_gb * _GIB)
        return Need(stage, "vLLM", parts, weights)
    if vllm.quantization is not None:
        each = _QUANTISED.get(vllm.quantization, model.width)
        weights *= each / model.width
    cached = 1 if vllm.kv_cache_dtype.startswith("fp8") else model.width
    sequence = longest * model.shape.cache_elements * cached / cards
    activations = model.passing(batch) / cards
    parts = Parts(weights / cards, activations=activations, logits=logits, cache=sequence)
    about = f"vLLM with {vllm.memory:.0%} of it"
    return Need(stage, about, parts, weights / cards, cards, vllm.memory, sequence)


def _scoring(
    config: RunConfig, student: Loaded, teacher: Loaded, prompt: int, target: Target
) -> list[Need]:
    """Return what scoring needs, in one stage or two. prompt: tokens of the longest."""
    longest = prompt + config.rollout.max_tokens
    rows = min(config.rollout.prompts, PROMPTS_PER_SHARD) * config.rollout.samples
    tokens = max(longest, min(config.score.batch_tokens, rows * longest))
    logits, about = _chunk_of_scores(config.score, target), f"{tokens:,} tokens"
    if config.score.mode == "joint":
        if student.weights is None:
            return [Need("score", about, None, None)]
        passing = max(student.passing(tokens), teacher.passing(tokens))
        parts = teacher.at_work(beside=student.weights, logits=2 * logits, activations=passing)
        return [Need("score", about, parts, parts and parts.parameters)]
    parts = student.at_work(logits=logits, activations=student.passing(tokens))
    alone = Need("score (student)", about, parts, student.weights)
    return [_teacher(config, teacher, logits, tokens, longest, target), alone]


def may_fuse_scores(settings: ScoreSettings, target: Target) -> bool:
    """Tell whether scores are taken to be fused: on a GPU, unless they are told not to be."""
    return not target.on_cpu and settings.may_fuse


def _chunk_of_scores(settings: ScoreSettings, target: Target) -> int:
    """Return the bytes of one model's chunk of logits, with what is made of them."""
    if may_fuse_scores(settings, target):
        return 4 * settings.chunk(fused=True)
    return chunk(settings.chunk(), target)


def _teacher(
    config: RunConfig, teacher: Loaded, logits: int, tokens: int, longest: int, target: Target
) -> Need:
    stage = "score (teacher)"
    if config.score.engine == "server":
        return Need(stage, "on the server", Parts(), 0.0)
    if config.score.engine == "transformers":
        parts = teacher.at_work(logits=logits, activations=teacher.passing(tokens))
        return Need(stage, f"{tokens:,} tokens", parts, teacher.weights)
    vllm, vocabulary = config.teacher.vllm, teacher.shape.vocabulary
    batch = vllm.batch_tokens or scoring_batch(vocabulary)
    return _in_vllm(stage, teacher, vllm, longest, batch, 3 * 4 * batch * vocabulary, target)


def _larger(**parts: float) -> dict[str, float]:
    """Return the largest of parts that are not there at once."""
    name = max(parts, key=lambda name: parts[name])
    return {name: parts[name]}
