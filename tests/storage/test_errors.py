"""Errors cross processes as they are."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from tip.pipeline.session import Session  # imports every module that declares one
from tip.storage.errors import TipError

assert Session


def kinds(kind: type[TipError] = TipError) -> Iterator[type[TipError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from kinds(inner)


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=lambda k: k.__name__))
def test_an_error_pickles_with_its_words(kind: type[TipError]) -> None:
    words: tuple[Any, ...] = ("what is wrong; the way out",)
    if kind.__name__ == "Refused":  # a server's, with its HTTP status
        words = ("http://server", 500, *words)
    error = kind(*words)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))
    assert words[-1] in str(again)
