"""Prompts: rows rendered to token ids, and the order in which rounds take them.

A prompt is its token ids, nothing else: two rows that render to the same ids are one prompt.
Knows no model; the tokenizer is an argument.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from jinja2.exceptions import TemplateError

from ..storage.errors import ConfigError, InputError
from ..storage.keys import ids_hash
from ..storage.prompts import Row
from .settings import TextSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS_PER_SHARD = 32  # the unit of work, cache, commit and resume

# A name alone between braces: `\boxed{}`, `{ a }`, `\frac{1}{2}` and `x^{n+1}` stay as they are.
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")

_FIXED_KWARGS = ("add_generation_prompt", "tokenize", "return_dict")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: what the student is shown, what the teacher is shown, the answer."""

    ids: tuple[int, ...]
    hash: str
    teacher_ids: tuple[int, ...]
    answer: str | None
    number: int


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
    names = _PLACEHOLDER.findall(settings.format)
    if not names:
        raise ConfigError(
            f"format = {settings.format!r} names no column: write one in braces, e.g. "
            f"{TextSettings.model_fields['format'].default!r}"
        )
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
    longest: int | None = None,
    teacher_longest: int | None = None,
    too_long: Literal["refuse", "skip"] = "refuse",
) -> tuple[list[Prompt], RenderFacts]:
    """Return the distinct prompts of the rows, in their order, and what was left out.

    Without `teacher_format` the teacher is shown the student's own ids. With it, the teacher's
    prompt is that text under the same template, tokenized by `teacher_tokenizer` (default: the
    student's). `longest` and `teacher_longest` are in tokens; None: no limit.
    Raises `InputError` with the row's place for a blank prompt, a blank answer, or a prompt that
    is too long; `ConfigError` if the settings do not suit the rows or the tokenizer.
    """
    prompts: dict[tuple[int, ...], Prompt] = {}
    seen = duplicates = skipped = 0
    for row in rows:
        seen += 1
        ids = _render(row, settings.format, settings, tokenizer)
        teacher_ids = ids
        if teacher_format is not None:
            teacher_ids = _render(row, teacher_format, settings, teacher_tokenizer or tokenizer)
        excess = _excess("prompt", ids, longest)
        if teacher_format is not None:
            excess = excess or _excess("teacher's prompt", teacher_ids, teacher_longest)
        if excess and too_long == "refuse":
            raise InputError(
                f"{row.place}: the {excess}; shorten it, raise max_tokens, or set too_long = 'skip'"
            )
        if excess:
            skipped += 1
        elif ids in prompts:
            duplicates += 1
        else:
            answer = None if answer_column is None else _answer(row, answer_column)
            prompts[ids] = Prompt(ids, ids_hash(list(ids)), teacher_ids, answer, row.number)
    if not prompts:
        raise InputError(
            f"no prompt is left: {skipped} of {seen} rows are too long for {longest} tokens; raise "
            "max_tokens or shorten them"
        )
    return list(prompts.values()), RenderFacts(seen, len(prompts), duplicates, skipped)


def _render(
    row: Row, text: str, settings: TextSettings, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """Return the token ids of one prompt, special tokens of the template included."""
    filled = fill(text, row.fields)
    if not filled.strip():
        raise InputError(f"{row.place}: the prompt is blank; expected text in {text!r}")
    if settings.template == "raw":
        ids = tokenizer(filled, add_special_tokens=True, verbose=False)["input_ids"]
    else:
        ids = _chat(filled, settings, tokenizer)
    if not ids:
        raise InputError(f"{row.place}: the prompt has no token: {filled[:40]!r}")
    return tuple(cast("list[int]", ids))


def _chat(text: str, settings: TextSettings, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"template = 'chat', but the tokenizer of {tokenizer.name_or_path!r} has no chat "
            "template: set template = 'raw'"
        )
    fixed = [name for name in _FIXED_KWARGS if name in settings.chat_kwargs]
    if fixed:
        raise ConfigError(f"chat_kwargs may not set {', '.join(fixed)}: always set by tip itself")
    messages = [{"role": "user", "content": text}]
    if settings.system is not None:
        messages.insert(0, {"role": "system", "content": settings.system})
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,  # True, transformers' default, returns a BatchEncoding
            **settings.chat_kwargs,
        )
    except TemplateError as error:  # such as a template that knows no system message
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} refuses these messages: {error}; "
            "mend system or chat_kwargs, or set template = 'raw'"
        ) from error
    return cast("list[int]", ids)


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
        raise InputError(f"{row.place}: the answer in column {column!r} is blank")
    return answer


def _excess(name: str, ids: tuple[int, ...], longest: int | None) -> str:
    """Return what is too long about a prompt, or nothing."""
    if longest is None or len(ids) <= longest:
        return ""
    return f"{name} has {len(ids)} tokens, more than the {longest} that fit"


def round_prompts(
    hashes: Sequence[str], prompts_a_round: int, round_: int, data_seed: int
) -> list[int]:
    """Return the indices of the prompts of one round, counted from 0.

    Rounds are cut, one after the other, from the shuffled prompts, epoch after epoch. Neither the
    number of rounds nor `prompts_a_round` moves a prompt: rounds 0 and 1 of 64 are round 0 of 128,
    and a longer run starts like a shorter one. There is one exception. A round that spans two
    epochs could meet a prompt twice; there, prompts of the new epoch that it already holds wait
    until it is over. So no round holds a prompt twice and every epoch holds each once, but near
    such a seam the order depends on `prompts_a_round`. With a number of prompts that it divides,
    there is no seam.
    Raises `ConfigError` if a round needs more prompts than there are.
    """
    if prompts_a_round > len(hashes):
        raise ConfigError(
            f"rollout.prompts = {prompts_a_round}, but there are {len(hashes)} distinct prompts: "
            "lower it or add prompts"
        )
    return next(islice(_rounds(hashes, prompts_a_round, data_seed), round_, None))


def _rounds(hashes: Sequence[str], size: int, data_seed: int) -> Iterator[list[int]]:
    order: list[int] = []  # what the epochs so far have left: less than a round
    for epoch in count():
        following = shuffled(hashes, data_seed, epoch)
        held = set(order)
        seam = [i for i in following if i not in held][: size - len(order)]
        in_seam = set(seam)
        order += seam + [i for i in following if i not in in_seam]
        whole = len(order) - len(order) % size
        for start in range(0, whole, size):
            yield order[start : start + size]
        order = order[whole:]


def shuffled(hashes: Sequence[str], data_seed: int, epoch: int) -> list[int]:
    """Return the indices of all prompts in the order of one epoch.

    Sorted by a hash of (seed, epoch, prompt): a generator's shuffle may change with its library's
    version, and depends on where a row stands. This order depends on the prompts alone, so the
    same prompts sorted otherwise, or in another format, still make the same shards, and a prompt
    added moves no other past its neighbours.
    """

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{data_seed}/{epoch}/{hashes[index]}".encode()).digest()

    return sorted(range(len(hashes)), key=key)


def shards(items: Sequence[Item], size: int = PROMPTS_PER_SHARD) -> list[list[Item]]:
    """Cut a round's prompts, in their order, into shards; the last may be smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
