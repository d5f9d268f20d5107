"""The C library is told to keep memory only where it takes both numbers."""

import pytest
from tip.stages.models.cpu import heap


class Library:
    def __init__(self, *, takes: bool) -> None:
        self.takes, self.told = takes, []

    def mallopt(self, name: int, value: int) -> int:
        self.told.append((name, value))
        return int(self.takes)


@pytest.mark.parametrize(("takes", "count"), [(True, 2), (False, 1)])
def test_a_library_that_refuses_the_first_number_is_not_told_the_second(
    *, takes: bool, count: int
) -> None:
    library = Library(takes=takes)
    heap._keep(library)
    assert [name for name, _ in library.told] == [-3, -1][:count]


def test_memory_can_be_given_back_at_any_time() -> None:
    heap.keep_freed_memory()
    heap.give_back_freed_memory()
