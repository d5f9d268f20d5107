"""How rows of a file become prompts."""

import datetime
import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..settings import BY_CONTENT, Count, Settings


class TextSettings(Settings):
    """How rows of a file become prompts: shared by training prompts and evaluation problems."""

    source: Annotated[str, BY_CONTENT]
    """A .jsonl, .json, .parquet, .csv or .txt file (a line a prompt, in the column `prompt`), or
    the name of a Hugging Face data set."""
    subset: Annotated[str | None, BY_CONTENT] = None
    """Configuration of a Hugging Face data set, such as `main`."""
    split: Annotated[str, BY_CONTENT] = "train"
    """Split of a Hugging Face data set."""
    format: Annotated[str, BY_CONTENT] = "{prompt}"
    """Text of the prompt; `{column}` is replaced by that column of the row."""
    messages: Annotated[str | None, BY_CONTENT] = None
    """Column with a chat in place of `format`: a list of messages with `role` and `content`. What
    an assistant says at its end is left off: the student answers there."""
    template: Annotated[Literal["chat", "raw"], BY_CONTENT] = "chat"
    """`chat`: the tokenizer's chat template around the text. `raw`: the text alone."""
    system: Annotated[str | None, BY_CONTENT] = None
    """System message for the chat template."""
    system_column: Annotated[str | None, BY_CONTENT] = None
    """Column with each row's own system message."""
    chat_kwargs: Annotated[dict[str, Any], BY_CONTENT] = Field(default_factory=dict)
    """Further arguments of the chat template, such as `enable_thinking = false`."""
    add_special_tokens: Annotated[bool, BY_CONTENT] = True
    """With template = 'raw': the tokenizer adds what it adds to texts, such as a BOS. `false` where
    the text brings it, or where the tokenizer adds an EOS."""
    date: Annotated[str, BY_CONTENT] = "2024-07-26"
    """Today, to a chat template that writes the date, as YYYY-MM-DD: the same in all runs, so that
    they have the same prompts tomorrow. The default is Llama 3's own without a clock."""
    limit: Annotated[Count | None, BY_CONTENT] = None
    """Use only the first rows of the source. None: all."""

    @field_validator("chat_kwargs")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)  # as the run's record must
        except ValueError as error:
            raise ValueError("holds inf or nan; expected finite numbers") from error
        return value

    @model_validator(mode="after")
    def _raw_text_has_no_messages(self) -> "TextSettings":
        chats = {
            "system": self.system,
            "system_column": self.system_column,
            "messages": self.messages,
            "chat_kwargs": self.chat_kwargs or None,
        }
        said = [name for name, value in chats.items() if value is not None]
        if self.template == "raw" and said:
            raise ValueError(
                f"{' and '.join(said)} belong to template = 'chat', but template = 'raw': drop "
                "them, or set template = 'chat'"
            )
        if self.system is not None and self.system_column is not None:
            raise ValueError("system and system_column both give a system message: drop one")
        # a stored config writes out what nobody set
        if self.messages is not None and self.format != type(self).model_fields["format"].default:
            raise ValueError("messages and format both give the prompt: drop one")
        if self.template == "chat" and not self.add_special_tokens:
            raise ValueError(
                "add_special_tokens belongs to template = 'raw', but template = 'chat': drop it, "
                "or set template = 'raw'"
            )
        return self

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, day: str) -> str:
        try:
            datetime.date.fromisoformat(day)
        except ValueError:
            raise ValueError(f"{day!r} is no day; expected one as YYYY-MM-DD") from None
        return day


class PromptSettings(TextSettings):
    """Prompts that the student answers in training."""

    max_tokens: Annotated[Count | None, BY_CONTENT] = None
    """Longest prompt in tokens. None: what the model leaves beside `rollout.max_tokens`."""
    too_long: Annotated[Literal["refuse", "skip"], BY_CONTENT] = "refuse"
    """What to do with a longer one: stop with its line number, or leave it out and say so."""
