"""What a user can set for a model: where it lies, and how it is held."""

from typing import Annotated, Literal

from pydantic import Field

from ..settings import BY_CONTENT, NOT_IN_KEY, Count, Fraction, NotNegative, Positive, Settings


class VllmSettings(Settings):
    """How vLLM holds a model, where vLLM is the engine that runs it."""

    tensor_parallel: Annotated[Count, NOT_IN_KEY] = 1
    """GPUs that share the model. Changes results only by rounding."""
    memory: Annotated[Fraction, NOT_IN_KEY] = 0.85
    """Share of each GPU's memory that vLLM may take, weights and cache together."""
    cpu_cache_gb: Annotated[Count, NOT_IN_KEY] = 2
    """GiB of key-value cache where vLLM runs on a CPU."""
    enforce_eager: Annotated[bool | None, NOT_IN_KEY] = None
    """Run without compiling graphs: starts sooner, runs slower. None: on a CPU only."""
    quantization: Annotated[str | None, BY_CONTENT] = None
    """vLLM's name of a quantisation to apply, such as `fp8`. None: as the weights are."""
    kv_cache_dtype: Annotated[str, BY_CONTENT] = "auto"
    """Type of the key-value cache, such as `fp8`. `auto`: that of the model."""
    max_model_len: Annotated[Count | None, NOT_IN_KEY] = None
    """Longest sequence in tokens. None: the longest prompt and response of the stage."""
    batch_tokens: Annotated[Count | None, NOT_IN_KEY] = None
    """Tokens that vLLM computes at once. None: its own choice when it generates; when it scores,
    what keeps the logits of a batch under 1 GiB. A scoring that runs out of memory starts again
    with half."""
    max_gap: Annotated[Positive | None, NOT_IN_KEY] = None
    """Largest mean difference, in nats, between vLLM's log-probs and the trainer's on a few prompts
    before an engine is used. None: 0.01 in float32, 0.25 in 16 bits, 0.5 quantised."""


class ServerSettings(Settings):
    """An OpenAI-compatible vLLM server that holds the teacher (`vllm serve`)."""

    url: Annotated[str, Field(pattern=r"^https?://[^/]"), NOT_IN_KEY]
    """Address, such as `http://host:8000`. An API key, where the server wants one, is taken from
    the environment: VLLM_API_KEY. A server may move."""
    name: Annotated[str | None, BY_CONTENT] = None
    """Name of the model there. None: the only one that the server has."""
    batch: Annotated[Count, NOT_IN_KEY] = 4
    """Rollouts a request."""
    parallel: Annotated[Count, NOT_IN_KEY] = 4
    """Requests under way at once."""
    timeout_seconds: Annotated[Positive, NOT_IN_KEY] = 300.0
    """Longest wait for the answer to one request."""
    patience_seconds: Annotated[NotNegative, NOT_IN_KEY] = 600.0
    """How long a server may be away (a restart) before the stage gives up."""


class ModelSettings(Settings):
    """A model: the student or the teacher."""

    model: Annotated[str, BY_CONTENT]
    """Folder with config.json, *.safetensors and a tokenizer, or a Hugging Face model name; or the
    folder of a LoRA adapter, which stands for its base with it merged."""
    revision: Annotated[str | None, BY_CONTENT] = None
    """Branch, tag or commit of a Hugging Face model name."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], BY_CONTENT] = "auto"
    """Compute type in rollout and scoring. `auto`: bfloat16 on a GPU and for a server, float32 on
    a CPU."""
    attn_implementation: Annotated[
        Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"], NOT_IN_KEY
    ] = "auto"
    """How transformers computes attention; vLLM chooses for itself. `auto`: `sdpa` where the model
    has it and it leaves nothing out, else `eager`; on a CPU as `[cpu]` says. Flash attention needs
    its package, a GPU and 16 bits: it serves rollouts, scoring and evaluation, not training.
    Changes results only by rounding."""
    trust_remote_code: Annotated[bool, BY_CONTENT] = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    vllm: Annotated[VllmSettings, BY_CONTENT] = VllmSettings()
    """How vLLM holds it, where an `engine` is `vllm`."""


class TeacherSettings(ModelSettings):
    """The teacher, and what only it is shown."""

    format: Annotated[str | None, BY_CONTENT] = None
    """Prompt text for the teacher, e.g. with a reference solution that the student does not see
    (self-distillation with privileged context). None: the student's own prompt."""
    server: Annotated[ServerSettings | None, BY_CONTENT] = None
    """The server that holds it, where `score.engine` is `server`; `model` then needs no weights:
    a folder or name with config and tokenizer is enough."""
