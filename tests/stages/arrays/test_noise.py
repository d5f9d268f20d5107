"""The noise is uniform, keyed by content alone, and the same on every machine."""

import numpy as np
from scipy import stats
from tip.stages.arrays.noise import mix, token_uniforms, uniforms

ROLLOUTS = np.arange(1, 401) * 7919
POSITIONS = np.arange(100)


def test_numbers_are_uniform_along_rollouts_and_along_positions() -> None:
    noise = uniforms(3, ROLLOUTS, POSITIONS)
    assert noise.min() >= 0
    assert noise.max() < 1
    # Kolmogorov-Smirnov over 40,000 numbers; a fair generator fails with probability 1e-6.
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-6
    assert stats.kstest(noise[:, 0], "uniform").pvalue > 1e-6
    assert stats.kstest(noise[0], "uniform").pvalue > 1e-6


def test_neighbours_in_rollout_position_and_seed_are_uncorrelated() -> None:
    noise = uniforms(3, ROLLOUTS, POSITIONS)
    other = uniforms(4, ROLLOUTS, POSITIONS)
    pairs = [(noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise, other)]
    for a, b in pairs:
        # The correlation of n fair pairs has standard deviation 1 / sqrt(n); 5 of them: 6e-7.
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


def test_a_number_depends_on_its_own_rollout_and_position_only() -> None:
    whole = uniforms(3, ROLLOUTS, POSITIONS)
    assert (
        uniforms(3, ROLLOUTS[[70, 5]], POSITIONS[[9]]).tolist() == whole[[70, 5]][:, [9]].tolist()
    )


def test_no_number_repeats() -> None:
    assert len(np.unique(uniforms(0, ROLLOUTS, POSITIONS))) == 40_000


def test_negative_and_huge_seeds_and_63_bit_rollouts_are_served() -> None:
    largest = np.array([(1 << 63) - 1, 0])
    seeds = [-1, 0, 1, 1 << 63, (1 << 64) - 2]
    columns = {seed: tuple(uniforms(seed, largest, np.array([0, 1])).ravel()) for seed in seeds}
    assert len(set(columns.values())) == len(seeds)


def test_the_numbers_are_those_that_stored_rollouts_were_drawn_with() -> None:
    found = uniforms(0, np.array([1, 1 << 62]), np.array([0, 1000]))
    assert found.tolist() == [
        [0.5225540511444501, 0.8638622626534392],
        [0.6142332240337316, 0.03775386219895749],
    ]


def test_the_finaliser_is_splitmix64s() -> None:
    # The first outputs of SplitMix64 seeded with 1234567, a published test vector.
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + golden * i) % (1 << 64) for i in range(1, 4)]
    with np.errstate(over="ignore"):
        found = mix(np.array(states, dtype=np.uint64)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_what_is_drawn_at_a_token_is_uniform_and_depends_on_its_place_only() -> None:
    rollouts, positions = np.repeat(ROLLOUTS, 10), np.tile(np.arange(10), len(ROLLOUTS))
    noise = token_uniforms(rollouts, positions, 10)
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-6
    assert len(np.unique(noise)) == noise.size
    for a, b in ((noise[1:], noise[:-1]), (noise[10:], noise[:-10]), (noise[:, 1:], noise[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)
    some = np.array([70, 5, 3999])
    assert (token_uniforms(rollouts[some], positions[some], 4) == noise[some, :4]).all()
    # and not on what the student's own draws depend on
    own = uniforms(0, ROLLOUTS, np.arange(10)).ravel()
    assert abs(np.corrcoef(noise[:, 0], own)[0, 1]) < 5 / np.sqrt(len(own))
