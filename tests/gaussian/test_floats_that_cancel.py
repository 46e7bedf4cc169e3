"""Floats in covariances and means: values against formulas of their own in 60 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

import dmft

x, y = sp.symbols("x y", real=True)
ALMOST = 1 - 2.0**-40
PAIRS = [(1.0, ALMOST, 1.0), (1e8, 1e8 - 1, 1e8), (1e6, 1e6 * ALMOST, 1e6), (1e8, 9.9e7, 1e8)]


def close(value, exact):
    assert value.is_Float
    assert abs(mp.mpf(value) - exact) < 3e-15 * abs(exact)


def two_erfs(a, c, b):
    """E[erf(x) erf(y)] by the arcsine law."""
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * a) * (1 + 2 * b)))


def erfs_apart(a, c, b):
    """E[(erf(x) - erf(y))^2]."""
    return two_erfs(a, a, a) - 2 * two_erfs(a, c, b) + two_erfs(b, b, b)


def tilted(a, c, b):
    """Covariances under exp(-x^2), and the mass of that factor."""
    return (a / (1 + 2 * a), c / (1 + 2 * a), b - 2 * c**2 / (1 + 2 * a)), 1 / mp.sqrt(1 + 2 * a)


def relus_apart(a, c, b):
    """E[(max(0, x) - max(0, y))^2] by the arc-cosine kernel."""
    angle = mp.atan2(mp.sqrt(a * b - c**2), c)
    both = (mp.sqrt(a * b - c**2) + c * (mp.pi - angle)) / (2 * mp.pi)
    return a / 2 + b / 2 - 2 * both


@pytest.mark.parametrize("pair", PAIRS)
def test_differences_of_nearly_parallel_fields(pair):
    """They are right to the last digits of a double, whatever the summands cancel."""
    a, c, b = pair
    law = dmft.Gaussian([x, y], [[a, c], [c, b]])
    with mp.workdps(60):
        a, c, b = map(mp.mpf, pair)
        close(law.expect((x - y) ** 4), 3 * (a + b - 2 * c) ** 2)
        close(law.expect((x - y) ** 6), 15 * (a + b - 2 * c) ** 3)
        close(law.expect((sp.erf(x) - sp.erf(y)) ** 2), erfs_apart(a, c, b))
        close(law.expect((sp.Max(0, x) - sp.Max(0, y)) ** 2), relus_apart(a, c, b))
        left, mass = tilted(a, c, b)
        weighted = sp.exp(-(x**2)) * (sp.erf(x) - sp.erf(y)) ** 2
        close(law.expect(weighted), mass * erfs_apart(*left))


@pytest.mark.parametrize("mean", [-2.0, -10.0, -14.0])
def test_kinks_far_in_the_tail(mean):
    """What is left of a step or a kink that the field hardly reaches."""
    law = dmft.Gaussian([x], [[1.0]], [mean])
    with mp.workdps(60):
        m = mp.mpf(mean)
        beyond = mp.erfc(-m / mp.sqrt(2)) / 2
        close(law.expect(sp.Heaviside(x)), beyond)
        close(law.expect(sp.Max(0, x)), m * beyond + mp.npdf(m))
        close(law.expect((1 + sp.erf(x)) / 2), mp.erfc(-m / mp.sqrt(3)) / 2)


def test_large_and_tiny_variances_of_one_field():
    """Differences from the limits of an error function and of a cosine."""
    with mp.workdps(60):
        square = dmft.Gaussian([x], [[1e16]]).expect(1 - sp.erf(x) ** 2)
        close(square, 1 - two_erfs(*[mp.mpf(1e16)] * 3))
        close(dmft.Gaussian([x], [[1e-10]]).expect(1 - sp.cos(x)), 1 - mp.exp(-mp.mpf(1e-10) / 2))


def test_rounding_below_zero_is_no_variance():
    """A covariance that passed its check by its tolerance gives no complex number."""
    over = 1 + 1e-11
    law = dmft.Gaussian([x, y], [[1.0, over], [over, 1.0]])
    assert law.expect(sp.Abs(x - y)) == 0
    assert law.expect(sp.erf(x - y) ** 2) == 0


def test_guard_digits_stay_inside():
    """Symbols beside floats: the user reads the floats that he wrote."""
    q = sp.Symbol("q", positive=True)
    law = dmft.Gaussian([x, y], [[q, 0.3], [0.3, 1.0]])
    value = law.expect(0.1 * x**2 + sp.Max(0, x) * sp.Max(0, y))
    assert all(f._prec == 53 for f in value.atoms(sp.Float))
    assert len(str(value)) < 80


@pytest.mark.parametrize("powers", [(3, 2), (8, 7)])
def test_high_moments_beside_two_shifted_signs(powers):
    """Stein's paths are as many as their orders, 10^6 and more; the averages they meet in few."""
    (n, k), rho, shift = powers, 0.6, (0.5, -0.25)
    law = dmft.Gaussian([x, y], [[1.0, rho], [rho, 1.0]], [0.1, 0.2])
    value = law.expect(x**n * y**k * sp.sign(x - shift[0]) * sp.sign(y - shift[1]))
    t, w = np.polynomial.legendre.leggauss(120)

    def line(kink):
        low, high = np.array([-16.0, kink]), np.array([kink, 16.0])
        points = ((low + high) / 2)[:, None] + ((high - low) / 2)[:, None] * t
        return points.ravel(), (((high - low) / 2)[:, None] * w).ravel()

    (u, first), (v, second) = line(shift[0]), line(shift[1])
    p, q = (u - 0.1)[:, None], (v - 0.2)[None]
    gap = 1 - rho**2
    density = np.exp(-(p**2 - 2 * rho * p * q + q**2) / (2 * gap)) / (2 * np.pi * np.sqrt(gap))
    signs = np.sign(u - shift[0])[:, None] * np.sign(v - shift[1])[None]
    exact = first @ (density * signs * u[:, None] ** n * v[None] ** k) @ second
    assert float(value) == pytest.approx(exact, rel=1e-11)


def test_float_quadratic_forms_without_couplings():
    """Coefficients of the other field are float zeros: E exp(-v^T D v) = det(1 + 2 C D)^(-1/2)."""
    v = sp.symbols("v_a v_b", real=True)
    cov, bend = np.array([[1.0, 0.3], [0.3, 0.8]]), np.diag([0.4, 0.7])
    form = sp.exp(-sp.Float(0.4) * v[0] ** 2 - sp.Float(0.7) * v[1] ** 2)
    found = float(dmft.Gaussian(v, sp.Matrix(cov)).expect(form))
    truth = np.linalg.det(np.eye(2) + 2 * cov @ bend) ** -0.5
    assert found == pytest.approx(truth, rel=1e-13)
