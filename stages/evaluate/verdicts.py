"""Verdicts: is the answer in a response the reference answer?

The answer is the content of the last complete `\\boxed{...}` of the response; a response without
one has no answer, whatever else it says. math-verify decides in a process that can be killed: it
hangs on answers such as 9^{9^{9^9}}, where neither a signal handler nor a thread gets a turn. Both
texts are normalised before, and it is asked no more than the texts leave open (`questions.py`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ...storage.errors import ConfigError
from ..engines.child import Child
from .questions import question

Word = Literal["right", "wrong", "no answer", "timeout"]
Pair = tuple[str, str]
"""A reference and an answer"""

_PROGRAM = Path(__file__).with_name("verdicts_worker.py")
_START_SECONDS = 120.0  # importing math-verify takes about one; a busy disk may take many
_BATCH = 64  # pairs a message: enough that messages cost nothing beside math-verify

_BRACES = re.compile(r"(?P<box>\\boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What became of one response.

    `timeout` means that no verdict was reached: the time ran out, or the process died on the
    pair. Only `right` counts as correct.
    """

    answer: str | None
    word: Word

    @property
    def correct(self) -> bool:
        """Whether the answer is the reference answer."""
        return self.word == "right"


class Verifier:
    """Decides (response, reference) pairs; a context manager that leaves no process behind.

    `math`: math-verify decides, at most `timeout` seconds a pair. `exact`: the answer's text must
    equal the reference's, white space aside; no process is started. For one thread at a time.
    """

    def __init__(self, kind: Literal["math", "exact"], *, timeout: float) -> None:
        self._kind = kind
        self._timeout = timeout
        self._worker: _Worker | None = None
        # Samples of one problem often agree: a pair is asked once, a hanging one too.
        self._known: dict[Pair, Word] = {}
        self._asked: dict[Pair, Word] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if one runs."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return the verdict of each (response, reference) pair, in order.

        Raises `ConfigError` if math-verify cannot be used.
        """
        answers = [last_boxed(response) for response, _ in pairs]
        keys = [
            (reference_answer(reference), _plain(answer or ""))
            for answer, (_, reference) in zip(answers, pairs, strict=True)
        ]
        self._learn(list(dict.fromkeys(key for key in keys if key[1])))
        return [
            Verdict(answer, self._known[key]) if key[1] else Verdict(None, "no answer")
            for answer, key in zip(answers, keys, strict=True)
        ]

    def _learn(self, keys: list[Pair]) -> None:
        """Come to know the verdict of every (reference, answer)."""
        ask = question if self._kind == "math" else eq
        questions = {key: ask(*key) for key in keys if key not in self._known}
        lists = [told for told in questions.values() if isinstance(told, list)]
        self._decide([pair for pairs in lists for pair in pairs])
        for key, told in questions.items():
            if isinstance(told, list):
                self._known[key] = _worst([self._asked[pair] for pair in told])
            else:
                self._known[key] = "right" if told else "wrong"

    def _decide(self, pairs: list[Pair]) -> None:
        """Ask math-verify of every pair that it was not asked of before."""
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._asked]
        while unknown:
            batch = unknown[:_BATCH]
            words = self._ask(batch)
            self._asked.update(zip(batch, words, strict=False))
            unknown = unknown[len(words) :]

    def _ask(self, batch: list[Pair]) -> list[Word]:
        """Return the first verdicts of a batch: all, or up to one that cost the process."""
        if self._worker is None or not self._worker.alive():
            self.close()
            self._worker = _Worker(self._timeout)
        try:
            words = self._worker.decide(batch)
        except BaseException:  # a line with answers under way must not be used again
            self.close()
            raise
        if words[-1] == "timeout":
            self.close()
        return words


class _Worker:
    """One running `verdicts_worker.py`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._child = Child(
            [str(_PROGRAM), str(2 * timeout + 1)],
            environment=os.environ | {"PYTHONHASHSEED": "0"},  # sympy's order of terms
        )
        try:
            self._greet()
        except BaseException:
            self.end()
            raise

    def _greet(self) -> None:
        try:
            trouble = self._child.receive(_START_SECONDS)
        except (TimeoutError, EOFError) as error:
            trouble = f"its process did not start ({error!r}, status {self._child.end()})"
        if trouble is not None:
            raise ConfigError(
                f"verifier = 'math' cannot use math-verify: {trouble}; install math-verify, or "
                "set verifier = 'exact'"
            )

    def decide(self, batch: list[Pair]) -> list[Word]:
        """Return the verdicts of a batch; a `timeout` is the last word of this worker."""
        words: list[Word] = []
        try:
            self._child.send(batch)
            for _ in batch:
                words.append("right" if self._child.receive(self._timeout) else "wrong")
        except (TimeoutError, EOFError, ConnectionError):
            words.append("timeout")
        return words

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child.alive()

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self._child.end()


def _worst(words: list[Word]) -> Word:
    """Return the word for terms that must all agree."""
    if "wrong" in words:
        return "wrong"
    return "timeout" if "timeout" in words else "right"


def last_boxed(text: str) -> str | None:
    """Return the content of the last complete, filled `\\boxed{...}`; None if there is none.

    Braces balance, escaped ones aside. One that is cut off or empty is passed over; of nested
    ones the innermost counts. One pass, whatever the text.
    """
    depth: list[tuple[bool, int]] = []  # of each open brace: is it a box's, and where it begins
    last = (-1, None)
    for match in _BRACES.finditer(text):
        if match["box"] or match["open"]:
            depth.append((bool(match["box"]), match.end()))
        elif match["close"] and depth:
            is_box, start = depth.pop()
            content = text[start : match.start()].strip() if is_box and start > last[0] else ""
            last = (start, content) if content else last
    return last[1]


def reference_answer(reference: str) -> str:
    """Return the answer in a reference: after its last `####` (GSM8K), boxed, or all of it."""
    if "####" in reference:
        reference = reference.rsplit("####", 1)[1]
    else:
        reference = last_boxed(reference) or reference
    return _plain(reference)


def _plain(text: str) -> str:
    """Return the text with single spaces and without a full stop at its end."""
    return " ".join(text.split()).removesuffix(".").rstrip()
