"""`tip init`: a first config, written from a few answers, to be read and changed."""

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import typer

from ..storage.errors import ConfigError
from ..storage.files import replacing, user_path
from ..storage.sources.rows import read_rows
from ..storage.visible import visible
from .config.toml import load_config

_TEXTS = ("prompt", "question", "problem", "instruction", "query", "input", "text")
_CHATS = ("messages", "conversation", "conversations")
_ANSWERS = ("answer", "final_answer", "target", "label", "solution")

TEMPLATE = """\
# Written by `tip init`. `tip config` explains every setting; docs/CHOOSING.md says what to choose.
# Next: tip doctor {file}, then tip run {file} --dry-run{card}, then tip run {file}
rounds = {rounds}            # of rollout, score, select, train; more of them later extend the run
store = "store"          # rollouts and teacher signals; share it between runs
device = "{device}"

[student]
model = {student}

[teacher]                # the same tokenizer as the student's
model = {teacher}

[prompts]                # what the student answers
source = {prompts}
{prompt_lines}too_long = "skip"       # or refuse, with its line

[rollout]
prompts = {round_prompts}            # a round
samples = 1              # of each prompt
max_tokens = {max_tokens}         # of a response

[select]
rule = "all"             # every token; `tip rules` lists others, `tip compare` judges them
# keep = 0.2             # share of the tokens that most other rules take

[train]
lr = {lr}                # compare three: tip compare {file} --rules soft_or --lr 1,3,10
rollouts_per_step = {per_step}{gap}# one optimiser step
warmup_steps = {warmup}
epochs = 1               # passes over each scored round: 4 cost no teacher token more
{evaluate}"""

EVALUATE = """
[evaluate]               # held-out problems, before, between and after the rounds
source = {source}
{lines}answer = {answer}
limit = {limit}
max_tokens = {max_tokens}
every = 1
reverse_kl = true        # to the teacher, on the student's own answers
"""

NO_EVALUATE = """
# [evaluate]             # held-out problems with known answers: without, a run tells no result
# source = "held_out.jsonl"
# answer = "answer"
# reverse_kl = true
"""


@dataclass(frozen=True)
class Asked:
    """What a config is made from. card: GB of the GPU, None: this machine's device."""

    student: str
    teacher: str
    prompts: str
    held_out: str | None
    card: float | None


def start(file: Path, given: Mapping[str, str | None], *, force: bool) -> None:
    """Ask for what is not given, write a config, and print what to do with it.

    given: answers by question (student, teacher, prompts, held_out, card). Raises `ConfigError`
    for a file that is there, for answers that cannot be, and where nobody can be asked.
    """
    if file.exists() and not force:
        raise ConfigError(f"{file}: is there; name another file, or add --force to write over it")
    asked = _asked(given)
    text = config_text(file, asked)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: an answer is no text of TOML ({error})") from error
    try:
        with replacing(file) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error
    load_config(file)  # it is ours: a complaint is a fault of this file
    card, typed = "" if asked.card is None else f" --card {asked.card:g}", quote(str(file))
    print(
        visible(
            f"{file} is written: read it, then\n"
            f"  tip doctor {typed}              models, data, room: ready?\n"
            f"  tip run {typed} --dry-run{card}   what it needs, what fits\n"
            f"  tip run {typed}"
        )
    )


def config_text(file: Path, asked: Asked) -> str:
    """Return the text of a config. Raises `TipError` for prompts that cannot be read."""
    lines, _ = _columns(asked.prompts, "prompts")
    evaluate = NO_EVALUATE
    small = asked.card is None  # minutes on two cores of a CPU, with models of 0.1 B
    max_tokens = 128 if small else 1024
    if asked.held_out is not None:
        own, answer = _columns(asked.held_out, "evaluate")
        if answer is None:
            raise ConfigError(
                f"{asked.held_out}: no column with answers; expected one of {', '.join(_ANSWERS)}"
            )
        evaluate = EVALUATE.format(
            source=_quoted(asked.held_out),
            lines=own,
            answer=_quoted(answer),
            max_tokens=max_tokens,
            limit=50 if small else 200,
        )
    return TEMPLATE.format(
        file=quote(str(file)),
        card="" if small else f" --card {asked.card:g}",
        rounds=4 if small else 10,
        device="auto" if small else "cuda",
        student=_quoted(asked.student),
        teacher=_quoted(asked.teacher),
        prompts=_quoted(asked.prompts),
        prompt_lines=lines,
        round_prompts=32 if small else 128,
        max_tokens=max_tokens,
        lr="1e-5",
        per_step=4 if small else 16,
        gap=" " * (4 if small else 3),
        warmup=4 if small else 10,
        evaluate=evaluate,
    )


def _asked(given: Mapping[str, str | None]) -> Asked:
    def answer(name: str, question: str, default: str | None = None) -> str:
        value = given.get(name)
        if value is not None:
            return value
        if not sys.stdin.isatty():
            raise ConfigError(
                f"--{name.replace('_', '-')} is not given, and nobody can be asked: {question}"
            )
        return str(typer.prompt(question, default=default)).strip()

    student = answer("student", "Student: a model folder, or a name on the hub (owner/name)")
    teacher = answer("teacher", "Teacher, of the same tokenizer")
    prompts = answer("prompts", "Prompts: a .jsonl, .json, .parquet, .csv or .txt file")
    held_out = given.get("held_out")
    card = given.get("card")
    if sys.stdin.isatty():
        if held_out is None:
            held_out = answer("held_out", "Held-out problems with answers (- for none)", "-")
        if card is None:
            card = answer("card", "GB of the GPU (- for this machine as it is)", "-")
    return Asked(
        student, teacher, prompts, None if held_out in (None, "-", "") else held_out, _card(card)
    )


def _card(text: str | None) -> float | None:
    if text in (None, "-", ""):
        return None
    try:
        size = float(str(text))
    except ValueError:
        size = 0.0
    if not 1 <= size <= 10_000:
        raise ConfigError(f"--card {text}: expected GB of a GPU, such as 24 or 80")
    return size


def _columns(source: str, section: str) -> tuple[str, str | None]:
    """Return the lines that name a source's columns, and its column of answers."""
    fields = _first_row(source, section)
    answer = _first(_ANSWERS, fields, str, int, float)
    if (chat := _first((*_CHATS, *_TEXTS), fields, list)) is not None:
        return f"messages = {_quoted(chat)}\n", answer
    text = _first(_TEXTS, fields, str)
    if text is None:
        raise ConfigError(
            f"{source}: no column with prompts; expected one of {', '.join((*_TEXTS, *_CHATS))}, "
            f"it has {', '.join(fields)}: name it prompt, or write {section}.format by hand"
        )
    return f"format = {_quoted(f'{{{text}}}')}\n", answer


def _first_row(source: str, section: str) -> Mapping[str, Any]:
    if Path(source).suffix.lower() != ".parquet":
        return read_rows(source, limit=1, needed=(), section=section)[0].fields
    import polars as pl

    try:
        return pl.scan_parquet(user_path(source), glob=False).head(1).collect().to_dicts()[0]
    except (pl.exceptions.PolarsError, OSError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{source}: cannot be read ({reason}): mend {section}.source") from error


def _quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _first(names: Sequence[str], fields: Mapping[str, Any], *kinds: type) -> str | None:
    return next((name for name in names if isinstance(fields.get(name), kinds)), None)
