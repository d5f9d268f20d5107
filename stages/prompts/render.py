"""Prompts: rows rendered to token ids.

A prompt is its token ids, nothing else: two rows that render to the same ids are one prompt.
Knows no model; the tokenizer is an argument.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ...storage.errors import ConfigError, InputError
from ...storage.keys import ids_hash
from ...storage.sources.rows import Row
from ..boundary import one_line, within
from .chats import chat_of
from .dates import date_arguments
from .settings import TextSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# A name alone between braces: `\boxed{}`, `{ a }`, `\frac{1}{2}` and `x^{n+1}` stay as they are.
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")


_TEMPLATE_SECONDS = 20.0  # of one prompt; a template takes milliseconds
_LONGEST_TEXT = 10_000_000  # characters, far beyond any context
_FIXED_KWARGS = ("add_generation_prompt", "tokenize", "return_dict", "strftime_now")


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: what the student is shown, what the teacher is shown, the answer."""

    ids: tuple[int, ...]
    hash: str
    teacher_ids: tuple[int, ...]
    answer: str | None
    number: int


@dataclass(frozen=True)
class Room:
    """How many tokens a prompt may have, and what to do about more beside shortening it."""

    tokens: int
    otherwise: str


@dataclass(frozen=True)
class RenderFacts:
    """What became of the rows: each is a prompt, a duplicate of an earlier one, or too long."""

    rows: int
    prompts: int
    duplicates: int
    too_long: int


def needed_columns(
    settings: TextSettings, *, teacher_format: str | None = None, answer_column: str | None = None
) -> list[str]:
    """Return the columns that rendering reads, to be asked of the source.

    Raises `ConfigError` for a format that names none: all rows would be the same prompt.
    """
    chats = [name for name in (settings.messages, settings.system_column) if name is not None]
    names = [] if settings.messages is not None else _PLACEHOLDER.findall(settings.format)
    if not names and settings.messages is None:
        raise ConfigError(
            f"format = {settings.format!r} names no column: write one in braces, e.g. "
            f"{TextSettings.model_fields['format'].default!r}"
        )
    names += chats
    names += _PLACEHOLDER.findall(teacher_format or "")
    names += [answer_column] if answer_column is not None else []
    return list(dict.fromkeys(names))


def render_prompts(
    rows: Iterable[Row],
    settings: TextSettings,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    teacher_tokenizer: "PreTrainedTokenizerBase | None" = None,
    teacher_format: str | None = None,
    answer_column: str | None = None,
    longest: Room | None = None,
    teacher_longest: Room | None = None,
    too_long: Literal["refuse", "skip"] = "refuse",
    rows_of_heads: tuple[int, int] | None = None,
) -> tuple[list[Prompt], RenderFacts]:
    """Return the distinct prompts of the rows, in their order, and what was left out.

    Without `teacher_format` the teacher is shown the student's own ids. With it, the teacher's
    prompt is that text under the same template, tokenized by `teacher_tokenizer` (default: the
    student's). `longest` and `teacher_longest`: None is no limit. rows_of_heads: how many ids the
    models that read the prompt have, and the one that reads the teacher's own.
    Raises `InputError` with the row's place for a blank prompt, a blank answer, or a prompt that
    is too long or holds an id that a model does not have; `ConfigError` if the settings do not
    suit the rows or the tokenizer.
    """
    prompts: dict[tuple[int, ...], Prompt] = {}
    seen = duplicates = skipped = 0
    excess = ""
    for row in rows:
        seen += 1
        own = None if settings.messages is not None else settings.format
        ids = _render(row, own, settings, tokenizer)
        teacher_ids = ids
        if teacher_format is not None:
            teacher_ids = _render(row, teacher_format, settings, teacher_tokenizer or tokenizer)
        if rows_of_heads is not None:
            _refuse_unknown(row, "prompt", ids, rows_of_heads[0], tokenizer)
            if teacher_format is not None:
                theirs = teacher_tokenizer or tokenizer
                _refuse_unknown(row, "teacher's prompt", teacher_ids, rows_of_heads[1], theirs)
        excess = _excess("prompt", ids, longest)
        if teacher_format is not None:
            excess = excess or _excess("teacher's prompt", teacher_ids, teacher_longest)
        if excess and too_long == "refuse":
            raise InputError(f"{row.place}: the {excess}")
        if excess:
            skipped += 1
        elif ids in prompts:
            duplicates += 1
        else:
            answer = None if answer_column is None else _answer(row, answer_column)
            prompts[ids] = Prompt(ids, ids_hash(list(ids)), teacher_ids, answer, row.number)
    if not prompts:
        raise InputError(
            f"no prompt is left: {skipped} of {seen} rows are too long; of the last one the "
            f"{excess}"
        )
    return list(prompts.values()), RenderFacts(seen, len(prompts), duplicates, skipped)


def _render(
    row: Row, text: str | None, settings: TextSettings, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """Return the token ids of one prompt, special tokens of the template included.

    text: its format; None where the row has a chat.
    """
    if text is None:
        messages = chat_of(row, str(settings.messages))
        filled = str(messages[-1]["content"])
    else:
        filled = fill(text, row.fields)
        if not filled.strip():
            raise InputError(f"{row.place}: the prompt is blank; expected text in {text!r}")
        messages = [{"role": "user", "content": filled}]
    raw = settings.template == "raw"
    shown = filled if raw else _chat(row, messages, settings, tokenizer)
    if len(shown) > _LONGEST_TEXT:
        raise InputError(f"{row.place}: the prompt has {len(shown)} characters; shorten it")
    with one_line(lambda reason: _unreadable(row, reason)):
        added = raw and settings.add_special_tokens  # a template writes them itself
        ids = tokenizer(shown, add_special_tokens=added, verbose=False)["input_ids"]
    if not ids:
        remedy = (
            "change its text or `format`"
            if raw
            else "mend the chat template, or set template = 'raw'"
        )
        raise InputError(f"{row.place}: the prompt has no token: {filled[:40]!r}; {remedy}")
    return tuple(cast("list[int]", ids))


def _refuse_unknown(
    row: Row, name: str, ids: tuple[int, ...], rows: int, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    if max(ids) >= rows:  # a tokenizer may have been given tokens that no embedding was made for
        worst = max(ids)
        raise InputError(
            f"{row.place}: the {name} holds token {worst} "
            f"({tokenizer.convert_ids_to_tokens(worst)!r}), but a model that reads it has an "
            f"embedding of {rows} tokens; drop it from the text, `format` or the chat template"
        )


def _unreadable(row: Row, reason: str) -> InputError:
    return InputError(
        f"{row.place}: the tokenizer cannot read the prompt ({reason}); change its text or `format`"
    )


def _chat(
    row: Row,
    messages: list[dict[str, str]],
    settings: TextSettings,
    tokenizer: "PreTrainedTokenizerBase",
) -> str:
    """Return what the chat template makes of messages, after the settings' system message."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"template = 'chat', but the tokenizer of {tokenizer.name_or_path!r} has no chat "
            "template: set template = 'raw'"
        )
    fixed = [name for name in _FIXED_KWARGS if name in settings.chat_kwargs]
    if fixed:
        raise ConfigError(f"chat_kwargs may not set {', '.join(fixed)}: always set by tip itself")
    system = settings.system
    if settings.system_column is not None:
        system = str(row.fields[settings.system_column])
    if system is not None:
        if messages[0]["role"] == "system":
            raise InputError(
                f"{row.place}: its messages begin with a system message; drop system or "
                "system_column"
            )
        messages = [{"role": "system", "content": system}, *messages]

    def refused(reason: str) -> ConfigError:
        # such as a template that knows no system message, is no template, or never ends
        return ConfigError(
            f"{row.place}: the chat template of {tokenizer.name_or_path!r} refuses these messages: "
            f"{reason}; mend system or chat_kwargs, or set template = 'raw'"
        )

    with one_line(refused), within(_TEMPLATE_SECONDS):
        shown = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=False,
            **date_arguments(tokenizer.chat_template, settings.date) | settings.chat_kwargs,
        )
    return cast("str", shown)


def fill(text: str, fields: Mapping[str, Any]) -> str:
    """Return the text with each `{column}` replaced by the row's value.

    One pass: braces inside a value are text. Raises `ConfigError` for a name that is no column.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in fields:
            raise ConfigError(
                f"format names {match[0]}, but the rows have {', '.join(fields)}; write "
                f"{{ {name} }}, with spaces, for literal braces"
            )
        return str(fields[name])

    return _PLACEHOLDER.sub(value, text)


def _answer(row: Row, column: str) -> str:
    if column not in row.fields:
        raise ConfigError(f"answer = {column!r}, but the rows have {', '.join(row.fields)}")
    answer = str(row.fields[column])
    if not answer.strip():
        raise InputError(
            f"{row.place}: the answer in column {column!r} is blank: fill it in, or drop the row"
        )
    return answer


def _excess(name: str, ids: tuple[int, ...], longest: Room | None) -> str:
    """Return what is too long about a prompt and what to do about it, or nothing."""
    if longest is None or len(ids) <= longest.tokens:
        return ""
    return (
        f"{name} has {len(ids)} tokens, more than the {longest.tokens} that fit; shorten it, or "
        f"{longest.otherwise}"
    )
