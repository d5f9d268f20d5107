"""What travels between a vLLM process and its owner.

To the process: `start` with the arguments of a spec, then any of `generate`, `score`, `want` (names
of requests that the owner waits for) and `abort` (names of requests to drop). From it: `ready` with
`EngineFacts`, `tick` with what has `Finished` since the last, `done` with the answers to all that
were wanted, in order, or `failed` with the words of an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..protocols import Sampling


@dataclass(frozen=True)
class EngineFacts:
    """What a running engine says of itself.

    version: of vLLM. vocabulary: ids of the model. longest: tokens of the longest sequence.
    batch_tokens: tokens computed at once. given_ids: whether it can be asked for ids to score.
    """

    version: str
    vocabulary: int
    longest: int
    batch_tokens: int
    given_ids: bool


@dataclass(frozen=True)
class Generation:
    """Responses to begin, one a name; `sampling` is the same for all but its seed."""

    names: Sequence[str]
    prompts: Sequence[list[int]]
    seeds: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True)
class Scoring:
    """Sequences to read, one a name; see `Scorer.score`. top: ids fetched a position."""

    names: Sequence[str]
    sequences: Sequence[list[int]]
    starts: Sequence[int]
    top: int
    given: Sequence[np.ndarray | None] | None


@dataclass(frozen=True)
class Finished:
    """Wanted requests that have finished, and the tokens of their answers."""

    requests: int
    tokens: int


@dataclass(frozen=True)
class Response:
    """One response of T tokens.

    ids: [T]. logprobs: [T] of them, at temperature 1. top: the student's top ids, position after
    position. counts: [T] how many each has. stopped: whether a stop token ended it.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    top: np.ndarray
    counts: np.ndarray
    stopped: bool
