"""Randomness as a pure function of what it is for.

The uniform number that picks a token depends on (seed, prompt, sample, position) and on nothing
else, so a rollout does not change with its batch, its shard or its round. Numbers for what is drawn
at a token depend on the token's place and on no seed.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_AT_TOKENS = 0x52532D4B44  # apart from every seed that a person would set


def mix(x: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 finaliser of uint64 numbers.

    Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
    """
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, rollouts: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1) with 53 random bits, [R, T] float64.

    rollouts: [R] 63-bit ids, each a hash of (prompt, sample). positions: [T].
    """
    with np.errstate(over="ignore"):
        start = mix(np.asarray(seed % (1 << 64), np.uint64) + _GOLDEN)
        rows = mix(rollouts.astype(np.uint64) ^ start)
        cells = mix(rows[:, None] + _GOLDEN * (positions[None, :].astype(np.uint64) + np.uint64(1)))
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def token_uniforms(rollouts: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1) for each of N tokens, [N, count] float64.

    rollouts: [N] ids. positions: [N] in their responses. The same whatever else is drawn there.
    """
    with np.errstate(over="ignore"):
        tokens = mix(rollouts.astype(np.uint64) ^ mix(_GOLDEN * (positions + 1).astype(np.uint64)))
    return uniforms(_AT_TOKENS, tokens, np.arange(count))
