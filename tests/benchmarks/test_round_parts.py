"""What a round's parts are timed by are names of functions: a move must not leave them behind."""

import pytest
from tip.benchmarks.round_parts import WRAPPED


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, name, *_ in WRAPPED], ids=str)
def test_what_the_benchmark_of_a_round_times_is_there(owner: object, name: str) -> None:
    assert callable(getattr(owner, name))
