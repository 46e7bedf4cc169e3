"""The bivariate normal distribution function against conditioning on one variable."""

import mpmath as mp
import numpy as np
import pytest

from dmft.equations.reference import FUNCTIONS
from dmft.special.bivariate import bivariate_normal_cdf

OWEN = FUNCTIONS["BivariateNormalCDF"]
CORRELATIONS = [0.0, 0.3, -0.7, 0.9249, 0.925, -0.925, 0.99, -0.999, 1 - 1e-9, -1 + 1e-12]


def by_conditioning(h, k, rho):
    """E[1(U <= h) P(V <= k | U)] by quadrature in 25 digits, split at the kink."""
    with mp.workdps(25):
        h, k, rho = map(mp.mpf, (h, k, rho))
        width = mp.sqrt(1 - rho * rho)
        marks = [mp.mpf(-12), h]
        if rho != 0:
            marks += [(k + s * 8 * width) / rho for s in (-1, 0, 1)]
        marks = sorted(m for m in set(marks) if -12 <= m <= h)
        return float(mp.quad(lambda u: mp.npdf(u) * mp.ncdf((k - rho * u) / width), marks))


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_against_conditioning(rho):
    points = np.random.default_rng(0).normal(size=(6, 2)) * [[0.1], [1], [1], [3], [1], [1]]
    points[4, 1] = points[4, 0]
    points[5, 0] = 0.0
    for h, k in points:
        truth = by_conditioning(h, k, rho)
        assert bivariate_normal_cdf(h, k, rho) == pytest.approx(truth, abs=1e-15)
        # Owen's T takes 1 - rho^2 as a factor of its argument: fewer digits near 1.
        assert OWEN(h, k, rho) == pytest.approx(truth, abs=1e-15 + 2e-16 / np.sqrt(1 - rho**2))


@pytest.mark.parametrize("value", [bivariate_normal_cdf, OWEN])
def test_perfect_correlation_and_the_origin(value):
    from scipy.special import ndtr

    for h, k in ((0.3, -1.2), (-0.4, -0.4), (0.0, 0.7), (1.0, -1.0)):
        assert value(h, k, 1.0) == pytest.approx(ndtr(min(h, k)), abs=1e-15)
        assert value(h, k, -1.0) == pytest.approx(max(0.0, ndtr(h) - ndtr(-k)), abs=1e-15)
    for rho in (-1.0, -0.3, 0.0, 0.97, 1.0):
        expected = 0.25 + np.arcsin(rho) / (2 * np.pi)
        assert value(0.0, 0.0, rho) == pytest.approx(expected, abs=1e-15)


def test_outside_the_domain_is_nan():
    assert np.isnan(bivariate_normal_cdf(0.1, 0.2, 1.1))
    assert np.isnan(bivariate_normal_cdf(0.1, 0.2, np.nan))
    assert np.isnan(bivariate_normal_cdf(np.nan, 0.2, 0.3))
    assert np.isnan(bivariate_normal_cdf(np.nan, 0.2, 0.95))
