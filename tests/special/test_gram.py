"""Covariances from values at nodes against NumPy's weighted covariance."""

from __future__ import annotations

import numpy as np

from dmft.special.matrices import packed_covariance


def test_covariance_of_two_blocks_with_parts():
    rng = np.random.default_rng(0)
    p, k, nodes = 3, 2, 400
    size = p * p + p * k
    weight = rng.random(nodes)
    weight /= weight.sum()
    rows = rng.normal(size=(2, size, nodes)) + 3.0
    square = rows[:, : p * p].reshape(2, p, p, nodes)
    square[...] = square + square.swapaxes(1, 2)
    # A part with mean zero over noise that the nodes do not hold adds its second moment.
    truth = np.cov(rows[0], aweights=weight, ddof=0) + (rows[1] * weight) @ rows[1].T
    out = np.full((size, size), np.nan)
    packed_covariance(rows.copy(), weight, p, out)
    np.testing.assert_allclose(out, truth, rtol=1e-12)
    assert np.array_equal(out, out.T)
    assert np.linalg.eigvalsh(out)[0] > -1e-12
