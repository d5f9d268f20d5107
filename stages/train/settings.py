"""What a user can set for training."""

from typing import Annotated, Literal

from pydantic import Field

from ..settings import (
    BY_CONTENT,
    NOT_IN_KEY,
    Count,
    Loss,
    Natural,
    NotNegative,
    Positive,
    Settings,
)

ALL_LINEAR = "all-linear"
"""Stands for every linear layer of the body, as peft has it."""


class LoraSettings(Settings):
    """Adapters that are trained in place of the weights (arXiv 2106.09685)."""

    rank: Count = 32
    """Inner width of an adapter."""
    alpha: Positive = 64.0
    """What an adapter adds is multiplied by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)
    """Names of layers, or their ends (`q_proj`); `all-linear`: every linear one of the body."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that a step drops. Above 0 results depend on
    `train.batch_tokens`, too."""
    bits: Literal[4] | None = None
    """4: hold the targets of the base in 4 bits (NF4), on a GPU; exports then are merged into the
    dequantised base. None: float32."""


class TrainSettings(Settings):
    """How the student learns from the selected tokens."""

    loss: Loss = "reverse_kl"
    """What is minimised at a token that names no loss of its own (a rule's `loss`): a divergence
    between the live student and the stored teacher over support and tail, or `suppress`, the
    log-prob of the sampled token, which asks no teacher. `jeffreys` is reverse and forward KL."""
    jsd_beta: Annotated[float, Field(gt=0, lt=1), BY_CONTENT] = 0.5
    """beta of `jsd`: beta KL(teacher || m) + (1 - beta) KL(student || m) with
    m = beta teacher + (1 - beta) student, which near 0 is beta times forward KL, near 1 (1 - beta)
    times reverse KL (GKD, arXiv 2306.13649). Keys hold what is not a half."""
    clip_token: Annotated[Positive | None, BY_CONTENT] = None
    """Nats that a token's divergence counts at most. None: whatever it is. Above it value and
    gradient are multiplied by clip_token over the divergence, so the token still teaches in its
    direction; a clamp would leave the most wrong tokens without a gradient. Keys hold it where it
    is set."""
    tail: Literal["auto", True, False, "residual"] = "auto"
    """Count all that lies outside the support as one more bucket. "residual": the sampled token
    stands for what the bucket leaves out, so that the mean is the loss over the whole vocabulary.
    "auto": so for reverse KL where tokens are sampled from the whole vocabulary at temperature 1
    and the teacher can be asked for the student's ids, else true; decided at a run's first start.
    false leaves the tail's term out, as truncated losses do: then the sum is no divergence. For
    comparison."""
    residual_cap: Annotated[float, Field(ge=1), BY_CONTENT] = 2.0
    """Largest ratio of the live student's probability of a sampled token to that with which it was
    sampled, by which its residual is weighed. Only with tail = "residual", whose keys hold it."""
    normalise: Literal["mean", "total"] = "mean"
    """Denominator of a step's loss: the sum of the weights, or all trainable tokens."""
    rollouts_per_step: Count = 16
    """Rollouts an optimiser step, selected tokens or not."""
    epochs: Count = 1
    """Passes over a round's rollouts."""
    lr: Annotated[Positive, BY_CONTENT] = 1e-6
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
    warmup_steps: Annotated[Natural, BY_CONTENT] = 10
    """Steps from zero to the peak learning rate."""
    schedule: Annotated[Literal["cosine", "linear", "constant"], BY_CONTENT] = "cosine"
    """Course of the learning rate after the warm-up."""
    min_lr_frac: Annotated[float, Field(ge=0, le=1), BY_CONTENT] = 0.1
    """Learning rate at the end of the schedule, as a share of the peak."""
    horizon: Annotated[Count | None, BY_CONTENT] = None
    """Steps of the schedule. None: the steps of all rounds when the run is first started; a run
    that is extended later trains on at the end of its schedule. Keys hold the resolved rates."""
    lora: Annotated[LoraSettings | None, BY_CONTENT] = None
    """Train adapters beside a frozen base; rollouts, scores and exports see them merged. None: all
    weights are trained. Keys hold it where it is set."""
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit"], BY_CONTENT
    ] = "adamw"
    """AdamW with moments in float32 or in 8 bits; paged: a GPU's driver moves them to the host
    where memory is short. All but the first are bitsandbytes'. Keys hold what is not `adamw`."""
    clip: Positive = 1.0
    """Largest norm of a step's gradient."""
    batch_tokens: Annotated[Count, NOT_IN_KEY] = 8192
    """Tokens a micro-batch, padding included. Changes only rounding."""
    chunk_elements: Annotated[Count | None, NOT_IN_KEY] = None
    """Logits held at once in the loss (rows x vocabulary). None: 2^24; 7 x 2^24 where it is fused,
    which is 390 MB: a GPU reads the head, and reads and writes its gradient, for each chunk."""
    fused: Annotated[Literal["auto", True, False], NOT_IN_KEY] = False
    """Compute the loss by Triton's kernels, which read a chunk's logits twice and write their
    gradient once: not yet tried on a GPU, so off. `auto`: on a GPU where they are right. Where
    `autocast` is bfloat16 the head is then multiplied in bfloat16, too, and not in TF32; a copy of
    it is held meanwhile."""
    compile: Annotated[Literal["auto", True, False], NOT_IN_KEY] = "auto"
    """Compile the student's decoder layers, which fuses the passes between their products. `auto`:
    on a GPU where that works, for one process, a base that is not in 4 bits and adapters without
    dropout, whose draws it changes. Programs are kept in the user's cache folder
    (TORCHINDUCTOR_CACHE_DIR). Changes only rounding."""
    activation_checkpointing: Annotated[bool, NOT_IN_KEY] = False
    """Trade a second forward pass for the memory of activations."""
    autocast: Annotated[Literal["auto", "float32", "bfloat16"], BY_CONTENT] = "auto"
    """Compute type of the student's body. `auto`: bfloat16 on a GPU, float32 on a CPU."""
    export_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of the exported checkpoint; the training state keeps float32 masters."""
    processes: Annotated[Count, NOT_IN_KEY] = 1
    """Processes that train together on one host, one GPU each where there are GPUs: masters,
    gradients and moments are spread over them (FSDP2). Changes only rounding."""
    snapshot_seconds: Annotated[NotNegative, NOT_IN_KEY] = 60.0
    """Time between snapshots inside a round: what a kill can cost."""
    keep_states: Annotated[Count | None, NOT_IN_KEY] = None
    """Rounds whose training state (masters, moments) is kept: of the last so many. None: of the
    last two while the run goes on, of the last one when it has ended."""

    def states(self, *, ended: bool = False) -> int:
        """Return of how many rounds the training state is kept. ended: the run has."""
        return self.keep_states or (1 if ended else 2)

    def chunk(self, *, fused: bool) -> int:
        """Return `chunk_elements`, or what None stands for."""
        return self.chunk_elements or (7 << 24 if fused else 1 << 24)
