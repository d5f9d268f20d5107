"""Chained two-digit arithmetic with a scratch-pad: the demo's problems, texts and tokenizer.

A problem has three terms, + or -, and every right running total lies in 10..99. Its prompt is
always ten tokens; a scratch-pad is at most `MAX_RESPONSE_TOKENS` tokens with its `<eos>`. One step:

    connector, total, sign, term, ": ", ones column [carry | borrow], ", ", tens column, connector,
    new total, ". "                  ` start 90-56: 10-6=4 borrow, 9-5-1=3 hence 34. `

The connectors are free choices between four words. A scratch-pad may carry deliberate errors; text
after an error goes on consistently from what was written, and `ScratchPad.wrong` marks the tokens
at which it left the right continuation, and no others.

Vocabulary strings carry their own spaces and none is the prefix of another, so any sequence of ids
is spelled by exactly one text and the text gives the ids back.

All randomness comes from the `random.Random` a caller passes in. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
OPENING = (" first ", " start ", " okay ", " begin ")
RESULT = (" so ", " thus ", " hence ", " giving ")
NEXT = ("next ", "then ", "now ", "after ")
VOCABULARY: tuple[str, ...] = (
    *(PAD, EOS, "Q ", " A"),
    *"0123456789",
    *("+", "-", "=", ": ", ", ", ". ", " carry", " borrow", "\\boxed{", "}"),
    *(*OPENING, *RESULT, *NEXT),
)
TOKEN_IDS: dict[str, int] = {text: index for index, text in enumerate(VOCABULARY)}
PAD_ID, EOS_ID = TOKEN_IDS[PAD], TOKEN_IDS[EOS]

PROMPT_TOKENS = 10
MAX_RESPONSE_TOKENS = 64
HELD_OUT_SHARE = 10  # one problem in ten
TWO_DIGITS = range(10, 100)
BASE = 10

_BOXED = re.compile(r"\\boxed\{(\d+)\}")


@dataclass(frozen=True)
class Problem:
    """Three terms in 10..99 joined by two signs, each "+" or "-"."""

    terms: tuple[int, int, int]
    signs: tuple[str, str]

    @property
    def totals(self) -> tuple[int, int]:
        """The right running totals after the second and the third term."""
        first = self.terms[0] + int(f"{self.signs[0]}{self.terms[1]}")
        return first, first + int(f"{self.signs[1]}{self.terms[2]}")

    @property
    def answer(self) -> str:
        """The right answer as it stands in the box."""
        return str(self.totals[1])

    @property
    def prompt(self) -> str:
        """The prompt's text, e.g. `Q 90-56-23 A`."""
        (a, b, c), (first, second) = self.terms, self.signs
        return f"Q {a}{first}{b}{second}{c} A"

    @property
    def held_out(self) -> bool:
        """Whether a hash of the problem puts it among the held-out tenth."""
        digest = hashlib.sha256(self.prompt.encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


@dataclass(frozen=True)
class Errors:
    """Probabilities of the deliberate errors in a scratch-pad."""

    subtraction: float = 0.0
    """Of a borrow step: the smaller digit is taken from the larger, whichever stands above."""
    carry: float = 0.0
    """Of a carry step: the carry is neither noted nor added."""
    slip: float = 0.0
    """Of any step: one of its two column results is off by one."""
    miscopy: float = 0.0
    """Of any digit of a restated total, term or answer: another digit is written."""


NO_ERRORS = Errors()
STUDENT_ERRORS = Errors(subtraction=0.97, carry=0.70, slip=0.10)
TEACHER_ERRORS = Errors(subtraction=0.20, carry=0.20, slip=0.08, miscopy=0.015)


@dataclass
class ScratchPad:
    """One written response.

    `ids` ends with `<eos>`; `wrong[t]` is True where token t is a deliberate error given all tokens
    before it. A training loss over right behaviour leaves those positions out.
    """

    ids: list[int] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text without `<eos>`."""
        return decode(i for i in self.ids if i != EOS_ID)

    def write(self, *tokens: str, wrong: int | None = None) -> None:
        """Append `tokens`; the one at index `wrong` is a deliberate error."""
        self.ids += [TOKEN_IDS[token] for token in tokens]
        self.wrong += [index == wrong for index in range(len(tokens))]


def draw_problems(rng: random.Random, *, held_out: bool) -> Iterator[Problem]:
    """Yield distinct problems of one side of the split, uniform over the valid ones, without end.

    There are about 420 000 training and 47 000 held-out problems; asking for more than
    exist never returns.
    """
    seen: set[Problem] = set()
    while True:
        a, b, c = (rng.choice(TWO_DIGITS) for _ in range(3))
        problem = Problem((a, b, c), (rng.choice("+-"), rng.choice("+-")))
        valid = all(total in TWO_DIGITS for total in problem.totals)
        if valid and problem.held_out == held_out and problem not in seen:
            seen.add(problem)
            yield problem


def write_pad(
    problem: Problem, rng: random.Random, errors: Errors = NO_ERRORS
) -> ScratchPad | None:
    """Write a scratch-pad for `problem` with deliberate `errors`.

    None where an error made a later subtraction go below zero (1 in 1000 of the student's): the
    scratch-pad has no way to write that.
    """
    pad = ScratchPad()
    total = problem.terms[0]
    for connectors, sign, term in zip(
        (OPENING, NEXT), problem.signs, problem.terms[1:], strict=True
    ):
        pad.write(rng.choice(connectors))
        total = _copy(pad, total, rng, errors)
        pad.write(sign)
        written_term = _copy(pad, term, rng, errors)
        pad.write(": ")
        columns = _write_columns(pad, total, sign, written_term, rng, errors)
        if columns is None:
            return None
        pad.write(rng.choice(RESULT))
        total = _copy(pad, columns, rng, errors)
        pad.write(". ")
    pad.write("\\boxed{")
    _copy(pad, total, rng, errors)
    pad.write("}", EOS)
    return pad


def _copy(pad: ScratchPad, digits: str | int, rng: random.Random, errors: Errors) -> str:
    """Restate a number digit by digit; return what was written."""
    written = ""
    for digit in str(digits):
        miscopied = rng.random() < errors.miscopy
        written += rng.choice([d for d in "0123456789" if d != digit]) if miscopied else digit
        pad.write(written[-1], wrong=0 if miscopied else None)
    return written


def _write_columns(
    pad: ScratchPad, total: str, sign: str, term: str, rng: random.Random, errors: Errors
) -> str | None:
    """Write both columns of `total sign term`; return the new total's digits, None below zero."""
    top, bottom = (int(total[:-1]), int(total[-1])), (int(term[:-1]), int(term[-1]))
    slips = (
        rng.choice([(True, False), (False, True)]) if rng.random() < errors.slip else (False, False)
    )
    forgets = rng.random() < (errors.carry if sign == "+" else errors.subtraction)
    ones_column = _write_sum if sign == "+" else _write_difference
    ones, shift = ones_column(pad, top[1], bottom[1], slips[0], forgets, rng)
    tens = top[0] + shift + int(f"{sign}{bottom[0]}")
    if tens < 0:
        return None
    pad.write(*str(top[0]), sign, str(bottom[0]), *((sign, "1") if shift else ()), "=")
    tens = _write_result(pad, tens, slips[1], rng)
    return f"{tens}{ones % BASE}"


def _write_sum(
    pad: ScratchPad, a: int, b: int, slips: bool, forgets: bool, rng: random.Random
) -> tuple[int, int]:
    """Write the ones column of a sum; return its result and what it adds to the tens."""
    pad.write(str(a), "+", str(b), "=")
    ones = _write_result(pad, a + b, slips, rng)
    if ones < BASE:
        pad.write(", ")
        return ones, 0
    if forgets:
        pad.write(", ", wrong=0)
        return ones, 0
    pad.write(" carry", ", ")
    return ones, 1


def _write_difference(
    pad: ScratchPad, a: int, b: int, slips: bool, forgets: bool, rng: random.Random
) -> tuple[int, int]:
    """Write the ones column of a difference; return its result and what it adds to the tens."""
    borrows = a < b and not forgets
    if borrows:
        pad.write("1", str(a), "-", str(b), "=")
        a += BASE
    elif a < b:
        # The right text opens with the 1 of a + 10: where b is 1 the ways part one token later.
        pad.write(str(b), "-", str(a), "=", wrong=1 if b == 1 else 0)
        a, b = b, a
    else:
        pad.write(str(a), "-", str(b), "=")
    ones = _write_result(pad, a - b, slips, rng)
    pad.write(*((" borrow",) if borrows else ()), ", ")
    return ones, -1 if borrows else 0


def _write_result(pad: ScratchPad, result: int, slips: bool, rng: random.Random) -> int:
    """Write a column's result, its last digit off by one if it `slips`; return what was written."""
    if slips:
        neighbours = [n for n in (result - 1, result + 1) if n >= 0 and n // BASE == result // BASE]
        result = rng.choice(neighbours)
    digits = str(result)
    pad.write(*digits, wrong=len(digits) - 1 if slips else None)
    return result


_TOKEN = re.compile("|".join(re.escape(text) for text in sorted(VOCABULARY, key=len, reverse=True)))


def encode(text: str) -> list[int]:
    """The ids of `text`; ValueError where it is not made of vocabulary strings."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(
            f"{text!r} is not a text of the demo task; expected one like 'Q 90-56-23 A', made of "
            f"the vocabulary strings of {__name__}"
        )
    return [TOKEN_IDS[token] for token in tokens]


def decode(ids: Iterable[int]) -> str:
    """The text of `ids`, special tokens included."""
    return "".join(VOCABULARY[i] for i in ids)


def read_answer(text: str) -> str | None:
    """The digits in the last box of a response, or None without a box."""
    boxes = _BOXED.findall(text)
    return boxes[-1] if boxes else None


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of both models: adds no special token, has no chat template."""
    # No unknown token: a text outside the language is refused instead of silently changed.
    tokenizer = Tokenizer(WordLevel(TOKEN_IDS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN.pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=PROMPT_TOKENS + MAX_RESPONSE_TOKENS,
    )


def write_problem_files(folder: Path, *, seed: int, train: int, held_out: int) -> tuple[Path, Path]:
    """Write `train.jsonl` and `held_out.jsonl` with that many rows {"prompt", "answer"} each.

    A longer file of the same seed begins with the rows of a shorter one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, count, is_held_out in zip(paths, (train, held_out), (False, True), strict=True):
        problems = islice(draw_problems(random.Random(seed), held_out=is_held_out), count)
        rows = ({"prompt": p.prompt, "answer": p.answer} for p in problems)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths
