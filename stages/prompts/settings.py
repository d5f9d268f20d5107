"""How rows of a file become prompts."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ..settings import Count, Settings


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
