"""What a user can set for selection."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..settings import BY_CONTENT, NOT_IN_KEY, Count, Fraction, NotNegative, Positive, Settings


class SelectSettings(Settings):
    """Which tokens are trained on."""

    rule: Annotated[str, BY_CONTENT] = "all"
    """Name of a built-in rule (`tip rules`), or a path to your own .sql file."""
    keep: Fraction | None = 0.2
    """Share of the trainable tokens of each scope to keep, at least one of them. None: `count`.
    Rules with a budget of their own, such as `all`, do not ask."""
    count: Annotated[Count | None, BY_CONTENT] = None
    """Tokens of each scope to keep, in place of a share; all where there are fewer."""
    scope: Literal["rollout", "round"] = "rollout"
    """Where they are taken: in each rollout, or over the whole round."""
    where: str | None = None
    """SQL condition over the token table that a kept token must fulfil as well."""
    params: dict[str, float] = Field(default_factory=dict)
    """Values for the rule's parameters; its head comment lists them with their defaults."""
    corrected: bool = False
    """Weigh tokens of a sampled rule by one over their chance to be kept."""
    rollout_weight: str | None = None
    """SQL over a rollout (`prompt_length`, `length`, `stop_reason`, ...) that multiplies the weight
    of its tokens, with any rule: `(stop_reason = 'stop')::INT` leaves out what was cut off. Nothing
    gives rewards yet, so `reward` and `pass_rate` (with them, `pass_rate * (1 - pass_rate)` is
    PACED) are refused before any work."""
    cuts: Literal["fixed", "median"] = "fixed"
    """Borders of the types Q1-Q4: the two numbers below, or the medians of the round."""
    entropy_cut: NotNegative = 0.3
    """Student entropy in nats from which a token counts as uncertain."""
    divergence_cut: NotNegative = 0.1
    """Reverse KL in nats from which a token counts as divergent."""
    memory_gb: Annotated[Positive, NOT_IN_KEY] = 0.75
    """Memory of the query engine; beyond it, it works on disk (TMPDIR)."""
    timeout_seconds: Annotated[Positive, NOT_IN_KEY] = 600
    """Wall time that a round's selection may take."""

    @model_validator(mode="before")
    @classmethod
    def _a_count_stands_for_the_share(cls, values: Any) -> Any:
        """Drop the share that nobody asked for beside a count."""
        counted = isinstance(values, dict) and values.get("count") is not None
        return {"keep": None} | values if counted else values

    @model_validator(mode="after")
    def _one_budget(self) -> "SelectSettings":
        if (self.keep is None) == (self.count is None):
            raise ValueError(
                f"keep = {self.keep} and count = {self.count}: one of them says how many tokens "
                "are kept; set keep (a share) or count (tokens of each scope), not both"
                if self.count
                else "keep and count are both null: set one of them"
            )
        return self
