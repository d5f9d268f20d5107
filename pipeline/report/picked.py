"""Which rollouts the page shows: whole prompts, the same in every run and at every look."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...storage.columns import ROLLOUTS, narrow
from ...storage.queries import add_view, locked_connection
from .plane import spread
from .source import Source

_MOST_ROUNDS = 12
"""Rounds that rollouts are shown of, unless the page may hold many."""


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt in one round."""

    round: int
    prompt: str
    rollouts: tuple[int, ...]
    lengths: tuple[int, ...]

    def alone(self) -> Iterator["Group"]:
        """Yield its rollouts one by one."""
        for rollout, length in zip(self.rollouts, self.lengths, strict=True):
            yield Group(self.round, self.prompt, (rollout,), (length,))


@dataclass(frozen=True)
class Picked:
    """The rollouts that are shown, by round, and how many there are in all."""

    rollouts: dict[int, list[int]]
    of: int

    @property
    def count(self) -> int:
        """Return how many are shown."""
        return sum(map(len, self.rollouts.values()))


def picked(source: Source, most: int, tokens: int | None) -> Picked:
    """Return at most so many rollouts of a run, of at most so many tokens together.

    Prompts that come again in other rounds go first, so that one can see them change; then those of
    all rounds by turns. Within a round they are in the order of their hashes, which is no order of
    anything else, so runs that share prompts show the same ones.
    """
    groups = _groups(source)
    in_turn = list(_in_turn(groups, most))
    taken = _that_fit(in_turn, most, tokens)
    if not taken and in_turn:  # a prompt with more samples, or longer ones, than there is room for
        taken = _that_fit(in_turn[0].alone(), most, tokens) or [next(in_turn[0].alone())]
    found: dict[int, list[int]] = defaultdict(list)
    for group in taken:
        found[group.round] += group.rollouts
    return Picked(dict(sorted(found.items())), sum(len(g.rollouts) for g in groups))


def _that_fit(groups: Iterable[Group], most: int, tokens: int | None) -> list[Group]:
    """Return groups up to the first that does not fit: to go on would favour what is short."""
    taken: list[Group] = []
    for group in groups:
        most -= len(group.rollouts)
        tokens = None if tokens is None else tokens - sum(group.lengths)
        if most < 0 or (tokens is not None and tokens < 0):
            break
        taken.append(group)
    return taken


def _groups(source: Source) -> list[Group]:
    rounds = source.scored
    paths = source.paths("rollouts", rounds)
    files = [path for of in paths.values() for path in of]
    if not files:
        return []
    with locked_connection(files, threads=source.config.threads) as connection:
        add_view(connection, "rollouts", paths, narrow(ROLLOUTS))
        rows = connection.execute(
            "SELECT round, prompt_hash, list(rollout ORDER BY sample), "
            "list(length ORDER BY sample) FROM rollouts WHERE length > 0 GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return [Group(number, prompt, tuple(ids), tuple(long)) for number, prompt, ids, long in rows]


def _in_turn(groups: Sequence[Group], most: int) -> Iterator[Group]:
    """Give prompts in the order in which they are worth being shown."""
    by_prompt: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_prompt[group.prompt].append(group)
    rounds = spread(sorted({group.round for group in groups}), max(_MOST_ROUNDS, most // 8))
    again = [of for of in by_prompt.values() if len(of) > 1]
    given = set()
    for of_prompt in again[: max(1, most // 16)]:
        for group in (g for g in of_prompt if g.round in rounds):
            given.add((group.round, group.prompt))
            yield group
    queues = [
        [g for g in groups if g.round == number and (number, g.prompt) not in given]
        for number in rounds
    ]
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
