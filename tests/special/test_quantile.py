"""Inverse normal distribution function of many points, against SciPy's."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import qmc

from dmft.special.sampling import quantiles, sobol_rows


def test_quantiles_against_scipy():
    rng = np.random.default_rng(0)
    steps = 2.0 ** -np.arange(1, 31)
    edges = np.concatenate([steps, 1.0 - steps, [0.025, 0.975, 0.0249999, 0.9750001, 0.5]])
    points = np.concatenate([edges, rng.random(1000) * (1 - 2.0**-29) + 2.0**-30])
    normal = np.empty(points.size)
    quantiles(points, normal)
    exact = ndtri(points)
    assert np.all(np.abs(normal - exact) <= 2e-12 * np.abs(exact))
    assert normal[len(edges) - 1] == 0.0


@pytest.mark.parametrize("size", [1, 2, 8, 32, 512])
def test_rows_are_the_points_of_scipy(size):
    engine = qmc.Sobol(5, scramble=True, seed=np.random.default_rng(3))
    normal, uniform = np.empty((3, size)), np.empty((2, size))
    block, parts = min(size, 32), min(size, 4)
    sobol_rows(engine._sv.copy(), engine._quasi.copy(), 32, 4, normal, uniform)
    points = engine.random(size)
    # Points i, i + 1, ..., i + 3 stand a part of a block apart.
    place = np.arange(block).reshape(block // parts, parts).T.ravel()
    order = (np.arange(0, size, block)[:, None] + place).ravel()
    assert np.array_equal(uniform, points[order, 3:].T)
    np.testing.assert_allclose(normal, ndtri(points[order, :3].T), rtol=2e-12)


def test_a_point_at_zero_is_half_a_step_of_the_grid_inside():
    directions, shift = np.zeros((1, 30), dtype=np.uint32), np.zeros(1, dtype=np.uint32)
    normal = np.empty((1, 1))
    sobol_rows(directions, shift, 32, 4, normal, np.empty((0, 1)))
    assert abs(normal[0, 0] - ndtri(2.0**-31)) < 1e-11
