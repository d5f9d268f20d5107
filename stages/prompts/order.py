"""The order in which rounds take their prompts, and the shards they are cut into."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

from ...storage.errors import ConfigError

PROMPTS_PER_SHARD = 32  # the unit of work, cache, commit and resume


Item = TypeVar("Item")


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
    return next(islice(all_rounds(hashes, prompts_a_round, data_seed), round_, None))


def all_rounds(hashes: Sequence[str], size: int, data_seed: int) -> Iterator[list[int]]:
    """Give the indices of the prompts of each round, `size` of them; see `round_prompts`."""
    if size > len(hashes):
        raise ConfigError(
            f"rollout.prompts = {size}, but there are {len(hashes)} distinct prompts: lower it or "
            "add prompts"
        )
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
