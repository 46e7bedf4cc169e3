"""The inverse sine of compiled code, and the square of a mixture of error functions."""

import math

import numpy as np
import pytest
import scipy.integrate
from scipy.special import erf

from dmft.compiled import njit
from dmft.special.elementary import asin, square_of_erfs


@njit
def compiled(x):
    return asin(x)


@pytest.mark.parametrize("x", [*np.linspace(-1, 1, 41), 0.5, -0.5, 1e-9, np.nextafter(1, 0)])
def test_inverse_sine(x):
    assert compiled(x) == pytest.approx(math.asin(x), rel=4e-16, abs=1e-300)


def test_inverse_sine_beyond_one_is_nan():
    assert math.isnan(compiled(1.0 + 1e-9))


def test_squares_of_error_functions():
    """E (sum_e w_e erf(h_e / (s_e sqrt 2)))^2 of two correlated fields, by cubature."""
    cov = np.array([[3.0, 1.9], [1.9, 1.7]])
    # Two terms of each field.
    weight, scale = np.array([[0.8, -0.3], [-1.3, 0.5]]), np.array([[0.4, 0.9], [1.2, 2.0]])
    root = np.linalg.cholesky(cov)

    def density(y, x):
        h = root @ (x, y)
        f = np.sum(weight * erf(h[:, None] / (scale * math.sqrt(2))))
        return f**2 * math.exp(-(x * x + y * y) / 2) / (2 * math.pi)

    truth, _ = scipy.integrate.dblquad(density, -9, 9, -9, 9, epsabs=1e-10)
    products = np.outer(weight, weight)
    pairs = (2 * products - np.diag(np.diag(products)))[np.tril_indices(4)]
    found = square_of_erfs(cov, pairs, scale, np.empty((2, 4)), np.empty(10))
    assert found == pytest.approx(truth, abs=1e-8)
