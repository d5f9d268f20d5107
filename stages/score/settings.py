"""What a user can set for scoring."""

from typing import Annotated, Literal

from pydantic import model_validator

from ..settings import BY_CONTENT, NOT_IN_KEY, Count, Fraction, Natural, Settings


class ScoreSettings(Settings):
    """Teacher signals of the rollouts."""

    support: Annotated[Literal["top", "sampled"], BY_CONTENT] = "top"
    """`top`: the sampled token, the student's and the teacher's most probable ids, and a tail.
    `sampled`: ids drawn from the teacher, each with its share of the draws (Random Sampling KD);
    for mode = "joint" and train.loss = "forward_kl". Its keys hold `draws`."""
    draws: Annotated[Count, BY_CONTENT] = 50
    """Draws at a token, with replacement, for support = "sampled"."""
    teacher_top_p: Fraction = 0.99
    """Keep the teacher's most probable ids up to this mass."""
    teacher_top_max: Natural = 64
    """At most that many of them."""
    mode: Annotated[Literal["joint", "separate"], BY_CONTENT] = "joint"
    """`joint`: both models in memory, entropies and divergences over the whole vocabulary.
    `separate`: one after the other, divergences over support and tail (marked `support`)."""
    engine: Annotated[Literal["transformers", "vllm", "server"], BY_CONTENT] = "transformers"
    """What runs the teacher; `vllm` and `server` need mode = 'separate'."""
    engine_top: Annotated[Count, BY_CONTENT] = 128
    """Teacher ids fetched at a position where the engine cannot be asked for the student's own
    ids: those of them beyond are in the tail, and their mass is reported. Only with an engine
    other than transformers."""
    batch_tokens: Annotated[Count, NOT_IN_KEY] = 8192
    """Tokens a forward pass, padding included. Changes only rounding."""
    chunk_elements: Annotated[Count | None, NOT_IN_KEY] = None
    """Logits held at once in each model's head (rows x vocabulary). None: 2^24; 2^26 where scores
    are fused, which is 270 MB a model: a GPU reads a head once for each chunk."""
    fused: Annotated[Literal["auto", True, False], NOT_IN_KEY] = False
    """Compute what joint scores are by Triton's kernels, which read each model's logits three or
    four times in place of about 25 passes over both: not yet tried on a GPU, so off. `auto`: on a
    GPU where they are right. For mode = "joint" and support = "top". Changes only rounding."""
    compile: Annotated[Literal["auto", True, False], NOT_IN_KEY] = False
    """Compile the decoder layers of what transformers runs, as train.compile does for training;
    rollouts that are scored again as a check are not, so each shard holds both ways against each
    other. Not yet tried on a GPU, so off. `auto`: on a GPU where that works, for weights that are
    not quantised. Changes only rounding."""
    check_rows: Annotated[Natural, NOT_IN_KEY] = 1
    """Rollouts a shard that are scored again, alone, and must agree."""

    def chunk(self, *, fused: bool = False) -> int:
        """Return `chunk_elements`, or what None stands for."""
        return self.chunk_elements or (1 << 26 if fused else 1 << 24)

    @property
    def may_fuse(self) -> bool:
        """Return whether there is something to fuse, and leave to do so."""
        return self.fused is not False and self.mode == "joint" and self.support == "top"

    @model_validator(mode="after")
    def _shares_of_draws_are_no_log_probs(self) -> "ScoreSettings":
        if self.support == "sampled" and self.mode != "joint":
            raise ValueError(
                "support = 'sampled' keeps shares of draws, of which mode = 'separate' makes no "
                "divergence: set mode = 'joint', or support = 'top'"
            )
        return self

    @model_validator(mode="after")
    def _other_engines_have_one_model(self) -> "ScoreSettings":
        if self.engine != "transformers" and self.mode == "joint":
            raise ValueError(
                f"engine = '{self.engine}' holds the teacher alone, but mode = 'joint': set mode = "
                "'separate', or engine = 'transformers'"
            )
        return self
