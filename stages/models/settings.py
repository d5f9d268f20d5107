"""What a user can set for a model: where it lies, and how it is held."""

from typing import Annotated, Literal

from pydantic import Field

from ..settings import Count, Fraction, NotNegative, Positive, Settings


class VllmSettings(Settings):
    """How vLLM holds a model, where vLLM is the engine that runs it.

    Fields marked *Not in a key* change speed or memory; the others change results.
    """

    tensor_parallel: Count = 1
    """GPUs that share the model. *Not in a key*: changes results only by rounding."""
    memory: Fraction = 0.85
    """Share of each GPU's memory that vLLM may take, weights and cache together. *Not in a key*."""
    cpu_cache_gb: Count = 2
    """GiB of key-value cache where vLLM runs on a CPU. *Not in a key*."""
    enforce_eager: bool | None = None
    """Run without compiling graphs: starts sooner, runs slower. None: on a CPU only.
    *Not in a key*."""
    quantization: str | None = None
    """vLLM's name of a quantisation to apply, such as `fp8`. None: as the weights are."""
    kv_cache_dtype: str = "auto"
    """Type of the key-value cache, such as `fp8`. `auto`: that of the model."""
    max_model_len: Count | None = None
    """Longest sequence in tokens. None: the longest prompt and response of the stage.
    *Not in a key*."""
    batch_tokens: Count | None = None
    """Tokens that vLLM computes at once. None: its own choice when it generates; when it scores,
    what keeps the logits of a batch under 1 GiB. A scoring that runs out of memory starts again
    with half. *Not in a key*."""
    max_gap: Positive | None = None
    """Largest mean difference, in nats, between vLLM's log-probs and the trainer's on a few prompts
    before an engine is used. None: 0.01 in float32, 0.25 in 16 bits, 0.5 quantised.
    *Not in a key*."""


class ServerSettings(Settings):
    """An OpenAI-compatible vLLM server that holds the teacher (`vllm serve`)."""

    url: Annotated[str, Field(pattern=r"^https?://[^/]")]
    """Address, such as `http://host:8000`. An API key, where the server wants one, is taken from
    the environment: VLLM_API_KEY. *Not in a key*: a server may move."""
    name: str | None = None
    """Name of the model there. None: the only one that the server has."""
    batch: Count = 4
    """Rollouts a request. *Not in a key*."""
    parallel: Count = 4
    """Requests under way at once. *Not in a key*."""
    timeout_seconds: Positive = 300.0
    """Longest wait for the answer to one request. *Not in a key*."""
    patience_seconds: NotNegative = 600.0
    """How long a server may be away (a restart) before the stage gives up. *Not in a key*."""


class ModelSettings(Settings):
    """A model: the student or the teacher."""

    model: str
    """Folder with config.json, *.safetensors and a tokenizer, or a Hugging Face model name."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face model name."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type in rollout and scoring. `auto`: bfloat16 on a GPU and for a server, float32 on
    a CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    vllm: VllmSettings = VllmSettings()
    """How vLLM holds it, where an `engine` is `vllm`."""


class TeacherSettings(ModelSettings):
    """The teacher, and what only it is shown."""

    format: str | None = None
    """Prompt text for the teacher, e.g. with a reference solution that the student does not see
    (self-distillation with privileged context). None: the student's own prompt."""
    server: ServerSettings | None = None
    """The server that holds it, where `score.engine` is `server`; `model` then needs no weights:
    a folder or name with config and tokenizer is enough."""
