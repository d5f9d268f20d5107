"""Memory that tensors on a CPU give back stays with the process, ready for the next ones.

glibc returns a freed tensor of some MB to the system at once; the next one is made of fresh pages,
which the system must first find and clear. Scoring on two cores takes 9 % less time without that
(2.9 million page faults become 0.7). Between models all that is free goes back, so the peak of a
round is 4 % above what it is without.
"""

import ctypes
import functools
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt, <malloc.h>
_KEPT = 2**31 - 1  # bytes of free memory; the largest that mallopt takes
# Bytes. With 32 MB, what glibc rises to by itself, peaks grew by half; with 1 GB, by a tenth where
# an embedding has 671 MB: a tensor does not fit into the hole that one of its size has left.
_SEPARATE = 1 << 28


@functools.cache
def keep_freed_memory() -> None:
    """Tell the C library, where it is one that can be told.

    glibc before 2.35 refuses the threshold and must not be told the other one alone: it would stop
    adapting, and every tensor of 128 kB and more would have pages of its own.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        _keep(library)


def _keep(library: Any) -> None:
    if library.mallopt(_MMAP_THRESHOLD, _SEPARATE):
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


def give_back_freed_memory() -> None:
    """Return what is free to the system: the next stage's tensors have other sizes."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
