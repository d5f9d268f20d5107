"""Values, texts and bytes that a person, a disk or a stranger may leave in a file."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

GONE, DIGITS, DEEP, DATE = "@gone@", "@digits@", "@deep@", "@date@"
WRITTEN = {f'"{DIGITS}"': "9" * 5000, f'"{DEEP}"': "[" * 20_000 + "]" * 20_000}
FEW = 15
"""Cases of a kind in `make test`; `make soak` says how many of its own."""

_NUMBERS = [0, 1, -1, 7, 1 << 31, 1 << 53, (1 << 53) + 1, 1 << 63, 1 << 64, 10**30, 10**400]
_FLOATS = [0.5, -0.0, 1.0, 2.5, 1e308, 5e-324, math.inf, -math.inf, math.nan]
_TEXTS = ["", " ", "a", "\0", "é", "\u202e", "[bold]x[/bold]", "\x1b[31m", "../..", "/etc/passwd"]
_TEXTS += ["~nobody_here/x", "x" * 5000, "{prompt}", "{", "cuda:99", "true", "1", "\U0001f600"]
_NESTED: list[Any] = [[], [[]], [1, 2], ["a"], [None], {}, {"a": 1}, {"a": {"b": [math.inf]}}]

VALUES: st.SearchStrategy[Any] = (
    st.sampled_from([None, True, False, GONE, DIGITS, DEEP, *_NUMBERS, *_FLOATS, *_TEXTS, *_NESTED])
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)
HALVES = st.sampled_from(["\ud800", "a\udfff", ["\ud800"], {"\ud800": 1}])
EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), VALUES | HALVES), min_size=1, max_size=3)
"""For `edited`: where, and what stands there instead."""
DAMAGE = st.tuples(
    st.sampled_from(["none", "none", "cut", "flip", "insert", "double", "mark", "latin"]),
    st.integers(0, 1 << 20),
    st.integers(0, 255),
)
"""For `damaged`: what happens to the bytes, where, and a byte."""


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for step, below in inner:
        yield (*at, step)
        yield from places(below, (*at, step))


def edited(document: Any, edits: list[tuple[int, Any]]) -> Any:
    """Return a document with other values in some places."""
    document = copy.deepcopy(document)
    for where, value in edits:
        paths = list(places(document))
        if not paths:
            return copy.deepcopy(value)
        *steps, last = paths[where % len(paths)]
        parent = document
        for step in steps:
            parent = parent[step]
        if value == GONE:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(value)
    return document


def json_text(value: Any) -> bytes:
    """Return the text of a value, `DIGITS` and `DEEP` written out."""
    text = json.dumps(value)
    for name, written in WRITTEN.items():
        text = text.replace(name, written)
    return text.encode()


def damaged(data: bytes, damage: tuple[str, int, int]) -> bytes:
    """Return bytes as a kill, a disk or another editor leaves them."""
    what, where, byte = damage
    at = where % (len(data) + 1)
    return {
        "none": data,
        "cut": data[:at],
        "flip": data[:at] + bytes([byte]) + data[at + 1 :],
        "insert": data[:at] + bytes([byte]) + data[at:],
        "double": data[:at] + data[at // 2 :],
        "mark": b"\xef\xbb\xbf" + data,
        "latin": data.decode("utf-8", "replace").encode("latin-1", "replace") + b"\xe9",
    }[what]


def attack(cases: int, strategy: Any, act: Callable[[Any], None], seeds: list[Any]) -> int:
    """Act on seeds and on that many drawn cases; return how many there were.

    A few cases are always the same ones, many are new ones each time.
    """
    done: list[int] = []

    def counted(case: Any) -> None:
        done.append(1)
        act(case)

    test: Any = given(strategy)(counted)
    for seed in seeds if cases >= FEW else seeds[:cases]:
        test = example(seed)(test)
    settings(
        max_examples=cases,
        derandomize=cases <= FEW,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )(test)()
    assert len(done) >= cases
    return len(done)
