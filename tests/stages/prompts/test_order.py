"""Rounds take prompts in an order of their own, which nothing but the prompts and a seed decide."""

from functools import cache
from itertools import chain

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.prompts.order import PROMPTS_PER_SHARD, round_prompts, shards, shuffled
from tip.storage.errors import ConfigError
from tip.storage.keys import ids_hash

# Deadlines judge the machine, not the property.
UNHURRIED = hypothesis.settings(deadline=None)


@cache
def hashes(count: int) -> list[str]:
    return [ids_hash([number]) for number in range(count)]


def rounds(count: int, size: int, number: int, seed: int = 0) -> list[list[int]]:
    return [round_prompts(hashes(count), size, round_, seed) for round_ in range(number)]


def joined(parts: list[list]) -> list:
    return list(chain.from_iterable(parts))


CASES = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@UNHURRIED
@given(CASES, st.integers(0, 3))
def test_a_round_never_holds_a_prompt_twice(case: tuple[int, int], seed: int) -> None:
    count, size = case
    for indices in rounds(count, size, 12, seed):
        assert len(set(indices)) == len(indices) == size


@UNHURRIED
@given(CASES, st.integers(0, 3))
def test_every_epoch_holds_every_prompt_once(case: tuple[int, int], seed: int) -> None:
    count, size = case
    stream = joined(rounds(count, size, 3 * count // size + 1, seed))
    for start in range(0, 3 * count, count):
        assert sorted(stream[start : start + count]) == list(range(count))


@UNHURRIED
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 3))
def test_rounds_half_as_long_see_the_same_prompts_in_the_same_shards(
    half_rounds: int, shards_a_round: int, epochs: int, seed: int
) -> None:
    size = shards_a_round * PROMPTS_PER_SHARD
    count = 2 * half_rounds * size
    long = [shards(r) for r in rounds(count, 2 * size, epochs * half_rounds, seed)]
    short = [shards(r) for r in rounds(count, size, 2 * epochs * half_rounds, seed)]
    assert joined(long) == joined(short)


@UNHURRIED
@given(st.integers(64, 200), st.integers(0, 3))
def test_before_the_first_epoch_ends_the_length_of_a_round_moves_no_prompt(
    count: int, seed: int
) -> None:
    sizes = [size for size in (7, 16, 32, 64) if size <= count]
    streams = [joined(rounds(count, size, count // size, seed)) for size in sizes]
    for stream in streams:
        assert stream == shuffled(hashes(count), seed, 0)[: len(stream)]


def test_a_round_length_that_divides_no_epoch_moves_prompts_only_at_the_seam() -> None:
    # 100 prompts, rounds of 30: round 3 holds the last 10 of epoch 0 and 20 of epoch 1. The new
    # epoch's prompts that are among those 10 follow in round 4; then the plain order goes on.
    seam = rounds(100, 30, 5)[3]
    following = shuffled(hashes(100), 0, 1)
    assert seam[:10] == shuffled(hashes(100), 0, 0)[90:]
    fresh = [index for index in following if index not in seam[:10]]
    assert seam[10:] == fresh[:20]
    waited = [index for index in following[:25] if index in seam[:10]]
    assert waited  # else this seed shows nothing
    assert rounds(100, 30, 5)[4][: len(waited)] == waited


def test_epochs_and_seeds_shuffle_anew() -> None:
    orders = [shuffled(hashes(50), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_depends_on_the_prompts_and_not_on_where_they_stand() -> None:
    plain = hashes(50)
    order = [plain[index] for index in shuffled(plain, 0, 0)]
    turned = plain[::-1]
    assert [turned[index] for index in shuffled(turned, 0, 0)] == order
    fewer = plain[:40]
    assert [fewer[index] for index in shuffled(fewer, 0, 0)] == [h for h in order if h in fewer]


def test_the_order_is_the_same_on_every_machine() -> None:
    assert shuffled(hashes(12), 0, 0) == [1, 11, 10, 5, 4, 9, 3, 2, 7, 0, 8, 6]


def test_a_round_of_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout.prompts = 128, but there are 100 distinct"):
        round_prompts(hashes(100), 128, 0, 0)


def test_shards_keep_the_order_and_only_the_last_is_small() -> None:
    assert [len(shard) for shard in shards(range(70))] == [32, 32, 6]
    assert joined(shards(range(70))) == list(range(70))
    assert shards([]) == []
