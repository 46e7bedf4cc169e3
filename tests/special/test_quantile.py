"""Inverse normal distribution function of many points, against SciPy's."""

import numpy as np
from scipy.special import ndtri

from dmft.special.quantile import HALF_STEP, normal_rows


def test_rows_are_quantiles_of_columns():
    rng = np.random.default_rng(0)
    steps = 2.0 ** -np.arange(1, 31)
    edges = np.concatenate([steps, 1.0 - steps, [0.025, 0.975, 0.0249999, 0.9750001, 0.5]])
    points = np.stack(
        [np.resize(edges, 1000), rng.random(1000) * (1 - 2.0**-29) + 2.0**-30], axis=1
    )
    normal = np.empty((2, 1000))
    normal_rows(points, normal)
    exact = ndtri(points).T
    assert np.all(np.abs(normal - exact) <= 2e-12 * np.abs(exact))
    assert normal[0, len(edges) - 1] == 0.0


def test_a_point_at_zero_is_half_a_step_inside():
    points, normal = np.zeros((1, 1)), np.empty((1, 1))
    normal_rows(points, normal)
    assert abs(normal[0, 0] - ndtri(HALF_STEP)) < 1e-11
