"""The generator is NumPy's Philox word for word; variables have the moments that schemes need."""

from __future__ import annotations

import numpy as np
from numba import njit

from dmft.solvers.stochastic.loop import path_key, words


@njit
def block_of(key, block, path, purpose, out):
    out[0], out[1], out[2], out[3] = words(key, block, path, purpose)


def test_words_are_those_of_numpy():
    key, out = path_key(3), np.empty(4, dtype=np.uint64)
    for block, path, purpose in [(1, 0, 0), (77, 12345, 2), (2**40, 2**33 + 1, 1)]:
        block_of(key, block, path, purpose, out)
        # NumPy's counter is one behind the block that it returns.
        counter = np.array([block - 1, path, purpose, 0], dtype=np.uint64)
        expected = np.random.Philox(key=key, counter=counter).random_raw(4)
        assert np.array_equal(out, expected)


def test_keys_of_seeds_differ():
    assert len({tuple(path_key(seed)) for seed in range(100)}) == 100


def test_moments_of_the_increments(noise_of_a_path):
    key, n = path_key(0), 20_000
    out = np.empty((n, 3))
    for normal, moments, bounds in [(1, [0, 1, 0, 3, 0, 15], 6), (0, [0, 1, 0, 3, 0, 9], 1.74)]:
        noise_of_a_path.increments(key, 5, n, normal, out)
        for power, moment in enumerate(moments, 1):
            sample = out**power
            assert np.all(abs(sample.mean(axis=0) - moment) < 4 * sample.std(axis=0) / n**0.5)
        assert np.abs(out).max() < bounds
        products = np.stack(
            [
                out[:, 0] * out[:, 1],
                out[:, 1] * out[:, 2],
                out[1:, 0] @ out[:-1, 2] / n * np.ones(n),
            ]
        )
        assert np.all(abs(products.mean(axis=1)) < 4 / n**0.5)


def test_areas_are_antisymmetric_signs(noise_of_a_path):
    # 25 entries have 300 pairs, more than one block of 256 bits
    n = 800
    out = np.empty((n, 25, 25))
    noise_of_a_path.areas(path_key(0), 1, n, out)
    off = ~np.eye(25, dtype=bool)
    assert np.all(np.einsum("sii->si", out) == -0.5)
    assert np.all((out + out.transpose(0, 2, 1))[:, off] == 0)
    assert np.all(np.abs(out) == 0.5)
    pairs = out[:, *np.triu_indices(25, 1)] / 0.5
    correlations = pairs.T @ pairs / n - np.eye(300)
    assert np.abs(correlations).max() < 5.5 / n**0.5
    assert np.abs(pairs.mean(axis=0)).max() < 4.5 / n**0.5
