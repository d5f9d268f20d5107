"""A function in a process of its own, which ends with it: its memory and its crash are its own."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from ...storage.errors import TipError

Given = TypeVar("Given")
Got = TypeVar("Got")


def in_own_process(work: Callable[[Given], Got], given: Given, name: str) -> Got:
    """Return what a function of a module gives in a process that ends with it.

    It takes 3 s to start, mostly for torch. name: what people call the work.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process, named(name):
        return process.submit(work, given).result()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say whose process it was that was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise TipError(
            f"the process of {name} was killed, maybe for its memory: with fewer at a time "
            "(--workers) each has more; the same command continues"
        ) from error
