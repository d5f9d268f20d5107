"""Freed memory stays with the process, where the C library takes both numbers, until asked for."""

import platform
import subprocess
import sys

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_stays_until_it_is_given_back() -> None:
    """Resident MB after 50 blocks of 4 MB were freed, then after all that is free was given back.

    In a process of its own: what the C library is told holds for all of it.
    """
    program = (
        "import re, pathlib\n"
        "from tip.stages.models.cpu import heap\n"
        "def resident():\n"
        "    text = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmRSS:\\s+(\\d+)', text)[1]) >> 10\n"
        "heap.keep_freed_memory()\n"
        "before = resident()\n"
        "blocks = [bytearray(b'x') * (4 << 20) for _ in range(50)]\n"
        "del blocks\n"
        "kept = resident() - before\n"
        "heap.give_back_freed_memory()\n"
        "print(kept, resident() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    kept, left = map(int, done.stdout.split())
    assert kept > 150
    assert left < 50
