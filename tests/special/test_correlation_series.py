"""Series in the correlation against averages that are closed: arcsines and Gaussian integrals."""

import numpy as np
import pytest
import sympy as sp

from dmft.gaussian.tables.factor_table import factor_table
from dmft.model import FIELD as z
from dmft.special.averages import pair_average
from dmft.special.tables import series_average

ERF, BELL = sp.erf(z / sp.sqrt(2)), sp.exp(-(z**2) / 2)


def of_errors(s1, s2, rho):
    return 2 / np.pi * np.arcsin(rho * s1 * s2 / np.sqrt((1 + s1**2) * (1 + s2**2)))


def of_bells(s1, s2, rho):
    return 1 / np.sqrt((1 + s1**2) * (1 + s2**2) - (rho * s1 * s2) ** 2)


# Factor, its partner, and their average; the first has no parity, so that both series count.
CASES = {
    "both parities": (ERF + BELL, ERF + BELL, lambda *at: of_errors(*at) + of_bells(*at)),
    "odd": (ERF, ERF, of_errors),
    "a polynomial": (z, ERF, lambda s, t, rho: np.sqrt(2 / np.pi) * rho * s * t / np.hypot(1, t)),
    "no common parity": (ERF, BELL, lambda *_: 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_series_are_what_is_closed_or_say_that_they_do_not_converge(case):
    f, g, exact = CASES[case]
    tables = [factor_table(x) for x in (f, g)]
    F, G = (t.values for t in tables)
    rng = np.random.default_rng(5)
    taken = 0
    for n in range(400):
        s1, s2 = 10 ** rng.uniform(-3, 0.9, 2)
        rho = (1.0, -1.0, 0.0, 1 - 1e-6)[n % 8] if n % 8 < 4 else rng.uniform(-1, 1)
        value = series_average(F, G, s1, s2, rho)
        truth = exact(s1, s2, rho)
        # Rounding of the closed forms is relative to 1, that of small fields to their size.
        size = np.sqrt(exact(s1, s1, 1.0) * exact(s2, s2, 1.0)) if f == g else min(s1, 1.0)
        if case == "a polynomial":
            size = s1 * min(s2, 1.0)
        whole = pair_average(F, G, s1**2, rho * s1 * s2, s2**2)
        assert abs(whole - truth) <= 1e-12 * size
        if not np.isnan(value):
            taken += 1
            assert abs(value - truth) <= 5e-14 * size
    assert taken > 200


def test_what_a_series_leaves_out_is_known():
    # Wide parallel fields: nearly signs, whose orders fall too slowly; less correlated they fit.
    F = factor_table(ERF).values
    assert np.isnan(series_average(F, F, 3.9, 3.9, 0.999))
    assert np.isnan(series_average(F, F, 17.0, 1.0, 0.1))  # beyond the strips
    assert series_average(F, F, 3.9, 3.9, 0.5) == pytest.approx(of_errors(3.9, 3.9, 0.5), abs=1e-14)
    # Parallel fields of moderate width take the series too.
    assert series_average(F, F, 1.6, 1.6, 1.0) == pytest.approx(of_errors(1.6, 1.6, 1.0), abs=1e-14)
    # On both sides of where it stops, quadrature takes over without a step.
    places = np.linspace(0.8, 1, 401)
    last = max(r for r in places if not np.isnan(series_average(F, F, 3.9, 3.9, r)))
    assert 0.8 < last < 1.0
    for rho in (last, last + 0.0005):
        value = pair_average(F, F, 15.21, 15.21 * rho, 15.21)
        assert value == pytest.approx(of_errors(3.9, 3.9, rho), abs=3e-14)
