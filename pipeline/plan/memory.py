"""How much memory a device needs in each stage, from configs and the headers of weights alone.

What a body holds at work is counted from its widths as measured on models of Llama's kind. A CPU's
memory also holds the process itself, and the file that weights are read from until they are there.
"""

from dataclasses import dataclass, replace

from ...stages.engines.settings import SamplingSettings
from ...stages.engines.vllm.spec import scoring_batch
from ...stages.models.load import load_on_meta
from ...stages.models.size import Shape, shape_of
from ...stages.prompts.order import PROMPTS_PER_SHARD
from ...stages.train.lora import lora_layers, lora_parameters
from ...stages.train.optimizers import moment_bytes
from ..progress import resident
from ..session import Session

_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_TRAINED_BYTES = 8  # float32 weight and gradient; moments beside
_FOUR_BITS = 0.5 + 4 / 64  # bytes a number: NF4, and a float32 for each block of 64
_LIBRARIES = 130 << 20  # bytes that a process takes with its first model, beside the model
_DRAWING = 20  # bytes a logit while a token is drawn: the last ones, these, their float64 shares
_LONGEST_BY_PRODUCTS = 256  # tokens of a sequence whose attention scores are kept on a CPU


@dataclass(frozen=True)
class Need:
    """What one stage needs. what: made of what. bytes: a device; None where it is not known.

    least: what of them is no estimate: weights, or masters with their gradients and moments.
    """

    stage: str
    what: str
    bytes: float | None
    least: float | None


@dataclass(frozen=True)
class _Loaded:
    """A model in memory. width: bytes a weight. file: bytes that are read beside, on a CPU."""

    shape: Shape
    width: int
    file: int

    @property
    def weights(self) -> float | None:
        """Return the bytes of the weights, None where they are not here."""
        count = self.shape.parameters
        return None if count is None else float(count * self.width)

    def passing(self, tokens: int) -> int:
        """Return what a layer holds while tokens pass through the body."""
        shape = self.shape
        return tokens * self.width * (4 * shape.hidden + shape.attention + 3 * shape.inner)

    def at_work(self, more: float) -> float | None:
        """Return the most of loading the model, and of working with `more` beside it."""
        return None if self.weights is None else self.weights + max(self.file, more)


def memory_of(session: Session) -> list[Need]:
    """Return what each stage needs."""
    config, inputs = session.config, session.inputs
    on_cpu = session.device.type == "cpu"

    def loaded(shape: Shape, dtype: str) -> _Loaded:
        return _Loaded(shape, _BYTES[dtype], shape.file if on_cpu else 0)

    student = loaded(shape_of(inputs.student_card), inputs.first_student.dtype)
    teacher = loaded(shape_of(inputs.teacher_card), inputs.teacher(config.score.engine).dtype)
    longest, asked = max(len(p.ids) for p in inputs.prompts), config.rollout.prompts
    rows = min(asked, PROMPTS_PER_SHARD) * config.rollout.samples  # a batch stays in its shard
    rollout = _generating(session, "rollout", student, config.rollout, longest, rows)
    score = _scoring(session, student, teacher, inputs.longest_shown)
    needs = [rollout, *score, _training(session, student.shape, longest)]
    if config.evaluate:
        longest = max(len(p.ids) for p in inputs.problems)
        rows = len(inputs.problems) * config.evaluate.samples
        evaluate = _generating(session, "evaluate", student, config.evaluate, longest, rows)
        if config.evaluate.reverse_kl and config.score.mode == "joint":
            # the held-out rollouts are scored as well, and the teacher stays for the next round's
            needs[0] = replace(rollout, bytes=_sum(rollout.bytes, teacher.weights))
            scored = replace(score[0], stage="evaluate")
            evaluate = max(evaluate, scored, key=lambda need: need.bytes or 0)
        needs.append(evaluate)
    if not on_cpu:
        return needs
    process = float(resident() + _LIBRARIES)
    text = "Python, its libraries and the tokenizers, counted in each of these"
    needs = [replace(need, bytes=_sum(need.bytes, process)) for need in needs]
    return [*needs, Need("process", text, process, None)]


def _generating(
    session: Session, stage: str, student: _Loaded, terms: SamplingSettings, prompt: int, rows: int
) -> Need:
    """Return what writing responses needs. prompt: tokens of the longest. rows: responses."""
    vllm, weights = session.config.student.vllm, student.weights
    if terms.engine == "vllm":
        if session.device.type == "cpu":
            size = _sum(weights, vllm.cpu_cache_gb * _GIB)
            return Need(stage, "vLLM: weights and its cache", size, weights)
        share = None if weights is None else weights / vllm.tensor_parallel
        text = f"vLLM: weights on each of {vllm.tensor_parallel}, then {vllm.memory:.0%} of it all"
        return Need(stage, text, share, share)
    shape, rows = student.shape, min(terms.batch_size, rows)
    cache = rows * (prompt + terms.max_tokens) * shape.cache_elements * student.width
    drawing = _DRAWING * rows * shape.vocabulary
    size = student.at_work(cache + max(drawing, student.passing(rows * prompt)))
    return Need(stage, f"weights, cache and logits of {rows} rows", size, weights)


def _scoring(session: Session, student: _Loaded, teacher: _Loaded, prompt: int) -> list[Need]:
    """Return what scoring needs, in one stage or two. prompt: tokens of the longest."""
    config = session.config
    longest = prompt + config.rollout.max_tokens
    rows = min(config.rollout.prompts, PROMPTS_PER_SHARD) * config.rollout.samples
    tokens = max(longest, min(config.score.batch_tokens, rows * longest))
    chunk = _chunk(session, config.score.chunk_elements)
    if config.score.mode == "joint":
        passing = max(student.passing(tokens), teacher.passing(tokens))
        size = _sum(student.weights, teacher.at_work(2 * chunk + passing))
        both = _sum(student.weights, teacher.weights)
        return [Need("score", "both models and a chunk of logits each", size, both)]
    size = student.at_work(chunk + student.passing(tokens))
    what = "the student and a chunk of logits"
    alone = Need("score (student)", what, size, student.weights)
    return [_teacher(session, teacher, chunk, tokens), alone]


def _teacher(session: Session, teacher: _Loaded, chunk: int, tokens: int) -> Need:
    config, stage, weights = session.config, "score (teacher)", teacher.weights
    if config.score.engine == "server":
        return Need(stage, "on the server", 0.0, 0.0)
    if config.score.engine == "transformers":
        size = teacher.at_work(chunk + teacher.passing(tokens))
        return Need(stage, "the teacher and a chunk of logits", size, weights)
    vllm, vocabulary = config.teacher.vllm, teacher.shape.vocabulary
    logits = 3 * 4 * (vllm.batch_tokens or scoring_batch(vocabulary)) * vocabulary
    if session.device.type == "cpu":
        size = _sum(weights, vllm.cpu_cache_gb * _GIB + logits)
        return Need(stage, "vLLM: weights, its cache, logits of a batch", size, weights)
    text = f"vLLM: weights on each of {vllm.tensor_parallel} and logits, then {vllm.memory:.0%}"
    share = None if weights is None else weights / vllm.tensor_parallel
    return Need(stage, text, _sum(share, logits), share)


def _training(session: Session, shape: Shape, prompt: int) -> Need:
    """Return what training needs. prompt: tokens of the longest."""
    config, settings = session.config, session.config.train
    what = "float32 masters, gradients, moments, activations"
    if shape.parameters is None:
        return Need("train", what, None, None)
    on_cpu, longest = session.device.type == "cpu", prompt + config.rollout.max_tokens
    tokens = max(longest, min(settings.batch_tokens, settings.rollouts_per_step * longest))
    layer = 8 * shape.hidden + 3 * shape.attention // 2 + 5 * shape.inner
    if on_cpu and config.cpu.attention and longest <= _LONGEST_BY_PRODUCTS:
        layer += 2 * shape.heads * longest
    kept = layer * shape.layers
    if settings.activation_checkpointing:
        # a layer that is computed again is there whole, with its gradients, and on a CPU with gaps
        kept = shape.hidden * shape.layers + (3 if on_cpu else 2) * layer
    more = 4 * tokens * kept + _chunk(session, settings.chunk_elements)
    if shape.tied and settings.lora is None:
        # the gradient of the head is added to that of the embedding when no layer is held any more
        more = max(more, 4 * shape.vocabulary * shape.hidden)
    masters = _masters(session, shape.parameters)
    if settings.lora is not None:
        what = "the frozen base; float32 adapters, gradients, moments; activations"
    return Need("train", what, masters + more, masters)


def _masters(session: Session, parameters: int) -> float:
    """Return the bytes of what is trained and, with adapters, of the base that is not."""
    settings = session.config.train
    each = _TRAINED_BYTES + moment_bytes(settings.optimizer)
    if settings.lora is None:
        return parameters * each
    card = session.inputs.student_card
    model = load_on_meta(card)
    small = 0
    if settings.lora.bits is not None:
        small = sum(i * o for i, o in lora_layers(model, card, settings.lora).values())
    base = 4 * (parameters - small) + _FOUR_BITS * small
    return base + lora_parameters(model, card, settings.lora) * each


def _chunk(session: Session, elements: int) -> int:
    """Return the bytes of a chunk of logits; on a CPU what is made of them is made in pieces."""
    return (4 if session.device.type == "cpu" else 12) * elements


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
