"""Numbers in the page: base64 of little-endian arrays, and JSON that is safe inside of HTML."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NOT_KNOWN = 65535
"""Of a log-prob in thousandths of a nat: nobody has computed it."""

# What page/data.js reads: the name of an array's type, and numpy's.
_TYPES = {"f4": "<f4", "i4": "<i4", "u4": "<u4", "u2": "<u2", "u1": "<u1"}


def packed(values: Sequence[Any] | np.ndarray, kind: str) -> list[str]:
    """Return an array as the page reads it: its type, one of `_TYPES`, and its bytes as base64."""
    data = np.ascontiguousarray(values, dtype=_TYPES[kind]).tobytes()
    return [kind, base64.b64encode(data).decode("ascii")]


def thousandths(logprobs: np.ndarray) -> np.ndarray:
    """Return log-probs as whole thousandths of a nat below 0, NaN as `NOT_KNOWN` (uint16)."""
    below = np.clip(np.round(-1000 * logprobs.astype(np.float64)), 0, NOT_KNOWN - 1)
    return np.where(np.isnan(logprobs), NOT_KNOWN, below).astype(np.uint16)


def as_json(value: Any) -> str:
    """Return JSON that ends no script and opens no comment, whatever its texts say.

    Numbers that are none (NaN, infinite) become null: JSON has no word for them.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate, as a tokenizer may give it, is no character of a file.
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
