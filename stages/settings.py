"""What a user can set for each stage: the one home of every default.

Every class is frozen and strict: an unknown name is refused. Units stand in the text below each
field. Fields marked *not in a key* change speed or memory, never a result. No torch is imported:
a config is read and checked on any machine.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Frozen and strict base of all sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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


class TextSettings(Settings):
    """How rows of a file become prompts: shared by training prompts and evaluation problems."""

    source: str
    """A .jsonl, .parquet or .csv file, or the name of a Hugging Face data set."""
    subset: str | None = None
    """Configuration of a Hugging Face data set, such as `main`."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    format: str = "{prompt}"
    """Text of the prompt; `{column}` is replaced by that column of the row."""
    template: Literal["chat", "raw"] = "chat"
    """`chat`: the tokenizer's chat template around the text. `raw`: the text alone."""
    system: str | None = None
    """System message for the chat template."""
    chat_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the chat template, such as `enable_thinking = false`."""
    limit: Count | None = None
    """Use only the first rows of the source. None: all."""

    @model_validator(mode="after")
    def _raw_text_has_no_messages(self) -> "TextSettings":
        if self.template == "raw" and (self.system is not None or self.chat_kwargs):
            raise ValueError(
                "system and chat_kwargs belong to template = 'chat', but template = 'raw': drop "
                "them, or set template = 'chat'"
            )
        return self


class PromptSettings(TextSettings):
    """Prompts that the student answers in training."""

    max_tokens: Count | None = None
    """Longest prompt in tokens. None: what the model leaves beside `rollout.max_tokens`."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """What to do with a longer one: stop with its line number, or leave it out and say so."""


class SamplingSettings(Settings):
    """How responses are sampled."""

    samples: Count = 1
    """Responses a prompt."""
    temperature: NotNegative = 1.0
    """0 takes the most probable token. Log-probs are stored at temperature 1 whatever this is."""
    top_p: Fraction = 1.0
    """Sample from the smallest set of tokens with this mass."""
    top_k: Natural = 0
    """Sample from that many most probable tokens. 0: all."""
    max_tokens: Count = 512
    """Longest response in tokens."""
    stop_ids: tuple[int, ...] = ()
    """Further token ids that end a response, beside the model's own."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates."""
    batch_size: Count = 128
    """Rows generated together. *Not in a key*: changes results only by rounding."""


class RolloutSettings(SamplingSettings):
    """Student rollouts of a round."""

    prompts: Count = 128
    """Prompts a round."""
    student_top_p: Fraction = 0.99
    """Keep the student's most probable ids up to this mass: they lead the stored support."""
    student_top_max: Natural = 64
    """At most that many of them. 0: the support is the teacher's, with the sampled token."""
    replay: str | None = None
    """Name of a run whose rollouts and teacher signals serve all rounds: nothing is generated."""


class ScoreSettings(Settings):
    """Teacher signals of the rollouts."""

    teacher_top_p: Fraction = 0.99
    """Keep the teacher's most probable ids up to this mass."""
    teacher_top_max: Natural = 64
    """At most that many of them."""
    mode: Literal["joint", "separate"] = "joint"
    """`joint`: both models in memory, entropies and divergences over the whole vocabulary.
    `separate`: one after the other, divergences over support and tail (marked `support`)."""
    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """What runs the teacher; `vllm` and `server` need mode = 'separate'."""
    engine_top: Count = 128
    """Teacher ids fetched at a position where the engine cannot be asked for the student's own
    ids: those of them beyond are in the tail, and their mass is reported. Only with an engine
    other than transformers."""
    batch_tokens: Count = 8192
    """Tokens a forward pass, padding included. *Not in a key*: changes only rounding."""
    chunk_elements: Count = 1 << 24
    """Logits held at once in each model's head (rows x vocabulary). *Not in a key*."""
    check_rows: Natural = 1
    """Rollouts a shard that are scored again, alone, and must agree. *Not in a key*."""

    @model_validator(mode="after")
    def _other_engines_have_one_model(self) -> "ScoreSettings":
        if self.engine != "transformers" and self.mode == "joint":
            raise ValueError(
                f"engine = '{self.engine}' holds the teacher alone, but mode = 'joint': set mode = "
                "'separate', or engine = 'transformers'"
            )
        return self


class SelectSettings(Settings):
    """Which tokens are trained on."""

    rule: str = "soft_or"
    """Name of a built-in rule (`tip rules`), or a path to your own .sql file."""
    keep: Fraction = 0.2
    """Share of the trainable tokens of each scope to keep."""
    scope: Literal["rollout", "round"] = "rollout"
    """Where the share is taken: in each rollout, or over the whole round."""
    where: str | None = None
    """SQL condition over the token table that a kept token must fulfil as well."""
    params: dict[str, float] = Field(default_factory=dict)
    """Values for the rule's parameters; its head comment lists them with their defaults."""
    corrected: bool = False
    """Weigh tokens of a sampled rule by one over their chance to be kept."""
    rollout_weight: str | None = None
    """SQL over a rollout (`reward`, `pass_rate`, `length`, ...) that multiplies the weight of its
    tokens, with any rule: `pass_rate * (1 - pass_rate)` is PACED."""
    cuts: Literal["fixed", "median"] = "fixed"
    """Borders of the types Q1-Q4: the two numbers below, or the medians of the round."""
    entropy_cut: NotNegative = 0.3
    """Student entropy in nats from which a token counts as uncertain."""
    divergence_cut: NotNegative = 0.1
    """Reverse KL in nats from which a token counts as divergent."""
    memory_gb: Positive = 0.75
    """Memory of the query engine; beyond it, it works on disk (TMPDIR). *Not in a key*."""


class TrainSettings(Settings):
    """How the student learns from the selected tokens."""

    loss: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """Divergence between the live student and the stored teacher, over support and tail."""
    tail: bool = True
    """Count all that lies outside the support as one more bucket. false leaves its term out, as
    truncated losses do: then the sum is no divergence. For comparison."""
    normalise: Literal["mean", "total"] = "mean"
    """Denominator of a step's loss: the sum of the weights, or all trainable tokens."""
    rollouts_per_step: Count = 16
    """Rollouts an optimiser step, selected tokens or not."""
    epochs: Count = 1
    """Passes over a round's rollouts."""
    lr: Positive = 1e-6
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """AdamW's decay rates."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    warmup_steps: Natural = 10
    """Steps from zero to the peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    min_lr_frac: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the schedule, as a share of the peak."""
    horizon: Count | None = None
    """Steps of the schedule. None: the steps of all rounds when the run is first started; a run
    that is extended later trains on at the end of its schedule. Keys hold the resolved rates."""
    clip: Positive = 1.0
    """Largest norm of a step's gradient."""
    batch_tokens: Count = 8192
    """Tokens a micro-batch, padding included. *Not in a key*: changes only rounding."""
    chunk_elements: Count = 1 << 24
    """Logits held at once in the loss (rows x vocabulary). *Not in a key*."""
    activation_checkpointing: bool = False
    """Trade a second forward pass for the memory of activations. *Not in a key*."""
    autocast: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type of the student's body. `auto`: bfloat16 on a GPU, float32 on a CPU."""
    export_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of the exported checkpoint; the training state keeps float32 masters."""
    snapshot_seconds: NotNegative = 60.0
    """Time between snapshots inside a round: what a kill can cost. *Not in a key*."""
    keep_states: Count = 2
    """Rounds whose training state (masters, moments) is kept. *Not in a key*."""


class EvaluateSettings(SamplingSettings, TextSettings):
    """Problems with known answers, asked before, between and after the rounds."""

    answer: str = "answer"
    """Column with the reference answer."""
    every: Natural = 0
    """Evaluate after every so many rounds. 0: only before the first and after the last."""
    verifier: Literal["math", "exact"] = "math"
    """`math`: math-verify decides. `exact`: the boxed text must equal the answer."""
    timeout: Positive = 5.0
    """Seconds that one verdict may take before its process is killed."""
    reverse_kl: bool = False
    """Also measure the mean reverse KL to the teacher, on fresh rollouts of the problems."""
    resamples: Count = 10_000
    """Bootstrap resamples of the 95 % interval. *Not in a key*."""

    @model_validator(mode="after")
    def _greedy_needs_one_sample(self) -> "EvaluateSettings":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} with temperature = 0 gives equal answers: set samples "
                "= 1, or a temperature above 0"
            )
        return self
