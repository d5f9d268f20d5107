"""What generates and what scores: token ids in, ids and numbers out.

Text is never tokenised a second time. An engine is a class with the methods of `Engine`, a
scorer one with that of `Scorer`; a class may be both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..arrays.ragged import Ragged

Tick = Callable[[int], None]
"""Called with how many tokens, steps or whatever a work counts are done since the last call."""


class Spared(int):
    """Progress that took no work: what was found, or what an ended response leaves of its limit.

    It ticks like any number, and counts for no rate.
    """


def silent(_: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Request:
    """One response wanted: the prompt and the 63-bit id that its noise is keyed by."""

    prompt_ids: tuple[int, ...]
    rollout: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; see `SamplingSettings`. top_mass, top_most: student ids to keep."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_ids: tuple[int, ...]
    seed: int
    top_mass: float = 0.0
    top_most: int = 0


@dataclass(frozen=True)
class Responses:
    """R responses in the order of their requests.

    ids: R rows of token ids, a stop token included. logprobs: [sum of lengths] natural log at
    temperature 1, response after response. top: the student's top ids, a row a token in the same
    order. stopped: [R] whether a stop token ended it.
    """

    ids: Ragged
    logprobs: np.ndarray
    top: Ragged
    stopped: np.ndarray


class Engine(Protocol):
    """Generates responses with one model."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, tick: Tick = silent
    ) -> Responses:
        """Return a response for each request."""
        ...

    def prefetch(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Begin responses that `generate` will be asked for, where the engine can work ahead."""
        ...

    def abort(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Drop what was begun of responses that nobody wants any more."""
        ...


@dataclass(frozen=True)
class Scored:
    """What a model thinks of n tokens of one sequence.

    ids, logprobs: [n, 1 + top] the token itself, then the most probable ids, and their natural
    logs at temperature 1. given: [n, S] log-probs of the ids that were given, minus infinity at a
    pad; None where none were.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    given: np.ndarray | None


class Scorer(Protocol):
    """Reads sequences and says what a model thinks of their tokens.

    vocabulary: ids that it may name. given_ids: whether it can be asked for ids.
    """

    vocabulary: int
    given_ids: bool

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[Scored]:
        """Return what the model thinks of the tokens from `starts` on, sequence by sequence.

        starts: at least 1, since nothing predicts the first token. given: ids [n, S] a sequence,
        -1 pads; None for those of which nothing more is wanted.
        """
        ...
