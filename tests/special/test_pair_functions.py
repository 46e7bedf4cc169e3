"""Compiled angle and root of a pair of fields, at and beyond parallel fields; sums of diagrams."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from dmft.gaussian.closed.wick import diagram_table
from dmft.special.orthant import (
    BAND,
    PARALLEL,
    correlation_angle,
    correlation_root,
    inverse_correlation_root,
)
from dmft.special.tables import average_of_polynomials


@pytest.mark.parametrize("gap", [1.9, 1.0, 0.3, 1e-3, 1e-9, 1e-14])
@pytest.mark.parametrize("direction", [1, -1])
def test_values_against_mpmath(gap, direction):
    first, second = 0.7, 3.1
    cross = direction * (1 - gap) * np.sqrt(first * second)
    with mpmath.workdps(40):
        root = mpmath.sqrt(mpmath.mpf(first) * second - mpmath.mpf(cross) ** 2)
        angle = mpmath.atan2(mpmath.mpf(cross), root)
    # One ulp of the covariances moves the root by 1e-16 / root: no algorithm can do better.
    noise = 1e-15 / float(root)
    assert correlation_root(first, second, cross) == pytest.approx(float(root), abs=noise)
    assert correlation_angle(first, second, cross) == pytest.approx(float(angle), abs=noise)
    if root**2 > 2 * PARALLEL * first * second:
        inverse = inverse_correlation_root(first, second, cross)
        assert inverse * float(root) == pytest.approx(1.0, abs=noise / float(root))


def test_equal_fields_are_exact_for_any_variance():
    for q in np.exp(np.random.default_rng(0).uniform(-20, 20, 1000)):
        assert correlation_root(q, q, q) == correlation_root(q, q, -q) == 0.0
        assert inverse_correlation_root(q, q, q) == inverse_correlation_root(q, q, -q) == 0.0
        assert correlation_angle(q, q, q) == np.pi / 2
        assert correlation_angle(q, q, -q) == -np.pi / 2
    assert correlation_angle(0.0, 1.0, 0.0) == 0.0


def test_beyond_the_band_is_nan():
    assert correlation_root(1.0, 1.0, 1 + 0.4 * BAND) == 0.0
    assert np.isnan(correlation_root(1.0, 1.0, 1 + BAND))
    assert np.isnan(correlation_angle(1.0, 1.0, -1 - BAND))
    assert np.isnan(correlation_root(-1.0, 1.0, 0.0))


def test_diagrams_of_a_table_are_moments():
    """E x^2 y^2 = a b + 2 c^2, from a table by hand that expands E x^2 about variance 1/2."""
    square = [0.5, 0.5, 1.0, 0.0, *[0.0] * 4, 0.0, 1.0, 0.0, 0.0]  # E p, E p' = 0, E p''/2
    table = np.array([2, 2, 2, *square, *square, 1.0, 0, 2.0, 2])
    for a, c, b in ((1.3, 0.4, 0.9), (0.7, -0.6, 2.0)):
        found = average_of_polynomials.py_func(table, a, c, b)
        assert found == pytest.approx(a * b + 2 * c * c, rel=1e-14)


def test_table_of_powers_of_three_fields():
    """E x^5 y^5 z^4 and a sum of powers, which Gauss-Hermite quadrature of 8 points integrates."""
    powers = [[(5, 1)], [(5, 1), (3, -2)], [(4, 1), (2, 3)]]
    table = diagram_table([[(n, sp.Integer(c)) for n, c in p] for p in powers])
    cov = np.array([[1.3, 0.4, -0.3], [0.4, 0.7, 0.2], [-0.3, 0.2, 1.6]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    points = np.linalg.cholesky(cov) @ np.array(np.meshgrid(*[nodes] * 3)).reshape(3, -1)
    values = np.prod([sum(c * x**n for n, c in p) for p, x in zip(powers, points, strict=True)], 0)
    mass = np.prod(np.meshgrid(*[weights] * 3), 0).ravel() / (2 * np.pi) ** 1.5
    found = average_of_polynomials.py_func(np.array(table), *cov[np.triu_indices(3)])
    assert found == pytest.approx(values @ mass, rel=1e-12)
