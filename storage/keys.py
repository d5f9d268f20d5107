"""Keys are printable values: sha256 over canonical JSON.

Two runs that ask for the same thing get the same key, on any machine. Floats are written by
`repr` (the shortest form that reads back), so 0.1 is one key wherever it is computed.
"""

import hashlib
import json
from typing import Any

import numpy as np

KEY_LENGTH = 32  # hex digits kept of a sha256: 128 bits, far beyond accidental collision


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises `ValueError` for NaN or infinity and `TypeError` for what JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(value: Any) -> str:
    """Return the key of a JSON value, `KEY_LENGTH` hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:KEY_LENGTH]


def ids_hash(ids: list[int]) -> str:
    """Return the hash of a token id sequence, 16 hex digits: the identity of a prompt."""
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()[:16]


def rollout_id(prompt_hash: str, sample: int) -> int:
    """Return the 63-bit id of one sampled continuation of a prompt."""
    digest = hashlib.sha256(f"{prompt_hash}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
