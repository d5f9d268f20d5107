"""How far vLLM's log-probs are from the trainer's, of a tiny model of one kind on the CPU.

What is measured is what a user of `engine = "vllm"` has: the project's own engine, in float32, and
its own comparison before use; and beside it the log-probs of what the engine writes token by token,
which other kernels compute.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from published import PUBLISHED, as_published
from recipes import write_tiny
from tiny import load, sampling
from tip.stages.engines import probe
from tip.stages.engines.protocols import Request
from tip.stages.engines.vllm.engine import VllmEngine
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.models.language_model import LanguageModel
from tip.storage.errors import ModelError

LIMIT = probe.usual_limit("float32", None)
TIMES = 4  # as wide as other tiny models: kernels of a CPU take heads of 32 numbers and more

_LENGTHS = (9, 17, 33, 48)  # of prompts: windows and contexts of recipes end among them
_WRITTEN = 16  # tokens a response
_LONGEST = 64
_WORDS = 160  # characters of vLLM's in a row
_UNSAID = 30  # ids from here on stand for images and sound in models that read them

Outcome = Literal["agrees", "gross", "not on this CPU", "unknown", "fails"]

_UNKNOWN = "are not supported for now"
_OF_THIS_BUILD = (  # vLLM's words where its CPU build or a library beside it lacks something
    *("supported on CPU", "CPU GDN", "'_C' object", "triton", "_lib_fn_wrapper"),
    *("supported only for CUDA", "only implemented for", "sparse MLA backend"),
)


@dataclass(frozen=True)
class InVllm:
    """What became of a kind in vLLM.

    gap: mean |difference| of log-probs of prompts, in nats, by which an engine is refused.
    written: the same of the tokens that it draws. reason: vLLM's words where it cannot run it.
    """

    kind: str
    outcome: Outcome
    gap: float = 0.0
    written: float = 0.0
    reason: str = ""


def refused(kind: str, said: str) -> InVllm:
    """Return the verdict on a kind that vLLM did not run, for an error's text."""
    said = re.sub(r"^.*vLLM (?:failed|cannot run this model) \((.*)\)(?:;.*)?$", r"\1", said)
    if _UNKNOWN in said:
        return InVllm(kind, "unknown")
    lacks = any(words.lower() in said.lower() for words in _OF_THIS_BUILD)
    said = re.split(r" \[type=|: \{'|\. The available| If you were|: 1 validation", said)[0].strip()
    said = re.sub(r"/\S*/", "", said).rstrip(":.")
    return InVllm(kind, "not on this CPU" if lacks else "fails", reason=said[:_WORDS])


def spec_of(folder: Path, vocabulary: int, longest: int = _LONGEST) -> EngineSpec:
    """Return what an engine for four short prompts and their responses is started with."""
    return EngineSpec(
        folder, "float32", "cpu", longest, 4, 8, vocabulary, cpu_cache_gb=1, threads=1
    )


def judge(kind: str, folder: Path) -> InVllm:
    """Return what becomes of a kind of `recipes.py`. folder: empty, for its model."""
    write_tiny(folder, kind, 1, TIMES, PUBLISHED.get(kind))
    as_published(folder, kind)
    model = load(folder)
    longest = min(_LONGEST, model.card.context)
    try:
        with VllmEngine(spec_of(folder, model.vocabulary, longest)) as made:
            gap, written = _gaps(made, model, longest - _WRITTEN)
    except ModelError as error:
        return refused(kind, str(error))
    worst = max(gap, written)
    return InVllm(kind, "agrees" if worst <= LIMIT else "gross", gap, written)


def _gaps(made: VllmEngine, model: LanguageModel, longest: int) -> tuple[float, float]:
    """Return the mean gaps in nats over prompts, none too long, and over responses to them."""
    random = np.random.default_rng(3)
    prompts = [random.integers(2, _UNSAID, min(length, longest)) for length in _LENGTHS]
    read = probe.measured_gap(made, prompts, probe.reference_logprobs(model, prompts)).mean
    requests = [Request(tuple(ids.tolist()), n) for n, ids in enumerate(prompts)]
    drawn = made.generate(requests, sampling(max_tokens=_WRITTEN, stop_ids=()))
    whole = [np.concatenate([ids, drawn.ids.row(n)]) for n, ids in enumerate(prompts)]
    mine = np.stack([row[-_WRITTEN:] for row in probe.trainer_logprobs(model, whole)])
    theirs = drawn.logprobs.reshape(mine.shape).astype(np.float64)
    said = np.stack([np.cumsum(row[-_WRITTEN:] >= _UNSAID) == 0 for row in whole])
    return read, probe.gap_of((theirs - mine)[said]).mean
