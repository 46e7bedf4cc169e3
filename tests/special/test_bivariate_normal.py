"""The bivariate normal distribution function against conditioning on one variable."""

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

from dmft.equations.array_functions import FUNCTIONS
from dmft.gaussian.closed.bivariate import BivariateNormalCDF, TwoSigns
from dmft.special.elementary import bivariate_normal_cdf, two_signs

OWEN, OWEN_SIGNS = FUNCTIONS["BivariateNormalCDF"], FUNCTIONS["TwoSigns"]
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


@pytest.mark.cases(3)
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


@pytest.mark.parametrize("sign", [1, -1])
def test_correlations_that_rounding_puts_beyond_one(sign):
    for h, k in [(0.3, 1.2), (-0.4, 0.1)]:
        low, high = (mp.ncdf(min(h, k)), 0) if sign > 0 else (mp.ncdf(h), mp.ncdf(-k))
        truth = float(max(low - high, 0))
        assert OWEN(h, k, sign * (1 + 2.0**-52)) == pytest.approx(truth, abs=1e-15)


def signs_by_conditioning(h, k, rho):
    """E[sign(h - U) E[sign(k - V) | U]], the half lines folded onto each other at h."""
    with mp.workdps(40):
        h, k, rho = map(mp.mpf, (h, k, rho))
        width = mp.sqrt(2 * (1 - rho * rho))
        marks = [mp.mpf(0), abs(h), mp.mpf(1)]
        if rho != 0:
            marks += [abs(h - (k + s * 8 * width) / rho) for s in (-1, 0, 1)]
        marks = [m for m in sorted(set(marks)) if m < 14] + [mp.mpf(14)]

        def both(t):
            left, right = (mp.npdf(u) * mp.erf((k - rho * u) / width) for u in (h - t, h + t))
            return left - right

        return float(mp.quad(both, marks))


@pytest.mark.cases("-0.999999999999")
@pytest.mark.parametrize("rho", CORRELATIONS)
def test_two_signs_against_conditioning(rho):
    for h, k in np.random.default_rng(1).normal(size=(4, 2)) * [[0.1], [1], [3], [1]]:
        truth = signs_by_conditioning(h, k, rho)
        assert two_signs(h, k, rho) == pytest.approx(truth, abs=4e-15)
        assert float(TwoSigns(*map(sp.Float, (h, k, rho)))) == pytest.approx(truth, abs=1e-15)
        near = 1e-15 / np.sqrt(1 - rho**2)
        assert OWEN_SIGNS(h, k, rho) == pytest.approx(truth, abs=4e-15 + near)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_two_signs_of_tiny_arguments_keep_their_digits(size):
    for h, k, rho in ((1, 2, 3 * size), (1, -1, -1.5 * size), (0, 1, size), (0.5, 3, 0)):
        truth = signs_by_conditioning(h * size, k * size, rho * size)
        assert two_signs(h * size, k * size, rho * size) == pytest.approx(truth, rel=1e-14, abs=0)
        exact = TwoSigns(*map(sp.Float, (h * size, k * size, rho * size)))
        assert float(exact) == pytest.approx(truth, rel=1e-14, abs=0)


def test_two_signs_as_a_symbol():
    h, k, r = sp.symbols("h k r", real=True)
    signs = TwoSigns(h, k, r)
    assert signs.formula().has(BivariateNormalCDF)
    point = {h: sp.Float("0.3", 40), k: sp.Float("-0.7", 40), r: sp.Float("0.6", 40)}
    for v in (h, k, r):
        step = sp.Float("1e-8", 40)
        up, down = ({**point, v: point[v] + e} for e in (step, -step))
        slope = (signs.subs(up).evalf(35) - signs.subs(down).evalf(35)) / (2 * step)
        assert abs(slope - sp.diff(signs, v).subs(point).evalf(35)) < 1e-14
    assert TwoSigns(h, k, 0) == sp.erf(h / sp.sqrt(2)) * sp.erf(k / sp.sqrt(2))
    assert TwoSigns(0, 0, r) == 2 / sp.pi * sp.asin(r)
    for point in ((0.3, -0.7, 1), (0.3, -0.7, -1), (0.7, 0.3, -1), (-0.7, 0.3, 1)):
        expected = two_signs(*map(float, point))
        assert float(TwoSigns(*map(sp.Float, point))) == pytest.approx(expected, abs=1e-15)
        exact = TwoSigns(*map(sp.Rational, map(str, point)))
        assert float(exact) == pytest.approx(expected, abs=1e-15)
        assert not exact.has(TwoSigns)
        joint = BivariateNormalCDF(*map(sp.Rational, map(str, point)))
        assert not isinstance(joint, BivariateNormalCDF)
        assert float(joint) == pytest.approx(bivariate_normal_cdf(*map(float, point)), abs=1e-15)
    assert BivariateNormalCDF(0, 0, r) == sp.Rational(1, 4) + sp.asin(r) / (2 * sp.pi)
    assert TwoSigns(1, 2, 1) - (1 + sp.erf(1 / sp.sqrt(2)) - sp.erf(sp.sqrt(2))) == 0
    assert sp.latex(signs**2) == rf"\left({sp.latex(signs.formula())}\right)^{{2}}"


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
    assert np.isnan(two_signs(0.1, 0.2, 1.1))
    assert np.isnan(two_signs(0.1, np.nan, 0.3))
