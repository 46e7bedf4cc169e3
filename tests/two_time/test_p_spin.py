"""Spherical p-spin: exact solution at p = 2, exact series, published values, order, errors."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.special import iv, ive

import dmft
from dmft.codegen.two_time_volterra import build_volterra
from dmft.solvers.checkpoint import march
from dmft.solvers.two_time.thinned import Control, start

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "two_time.json").read_text(encoding="utf-8")
)["pspin"]
T = sp.Symbol("T")
GLASS = dmft.literature.spherical_p_spin(3, T)
TWO = dmft.literature.spherical_p_spin(2)


def exact_energy(t):
    """p = 2, T = 0: E = -I_2(4 t) / I_1(4 t)."""
    return -ive(2, 4 * t) / ive(1, 4 * t)


def exact_correlation(t, s):
    """p = 2, T = 0."""
    norm = (iv(1, 4 * t) / (2 * t)) * (iv(1, 4 * s) / (2 * s))
    return iv(1, 2 * (t + s)) / (t + s) / np.sqrt(norm)


def test_two_spins_equal_bessel_functions_within_the_claimed_error():
    run = dmft.solve(TWO, None, 10.0, tol=1e-6)
    assert run.status == "ok"
    error = np.abs(run.E[1:] - exact_energy(run.t[1:]))
    assert np.all(error <= run.error.E[1:] + 1e-9)
    assert error.max() < 3e-6
    for t, value in REFERENCE["p2_exact_E"].items():
        assert exact_energy(float(t)) == pytest.approx(value, abs=1e-12)
    for number, t in enumerate(run.saved):
        s, C = run.row("C", t)
        gap = np.abs(C[1:] - exact_correlation(t, s[1:])).max()
        assert gap <= run.error.C[number] + 1e-8, t


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", ["T=0", "T=0.5", "T=1"])
def test_published_values(case):
    """Theory E.1: energies, correlations and responses to 3e-6."""
    v = REFERENCE["p3"][case]
    run = dmft.solve(GLASS, None, 10.0, T=float(case[2:]), tol=1e-6, save_at=[1, 2, 5, 10.0])
    now = [int(np.argmin(abs(run.t - t))) for t in (1, 2, 5, 10)]
    np.testing.assert_allclose(run.E[now], v["E(1,2,5,10)"], atol=REFERENCE["p3"]["abs_err"])
    for name in "CR":
        for t, s in ((10, 5), (5, 2)):
            found = run.at(name, t, s)
            assert found == pytest.approx(v[f"{name}({t},{s})"], abs=3e-6)
    # The multiplier holds the sphere: mu = T - p E.
    np.testing.assert_allclose(run.mu, float(case[2:]) - 3 * run.E, atol=1e-12)


@pytest.mark.parametrize("name", ["p=2,T=0.0", "p=3,T=0.0", "p=3,T=0.5"])
def test_energy_follows_its_exact_series(name):
    """Rational Taylor coefficients, to the digits that the series has at t = 0.1."""
    coefficients = [float(Fraction(c)) for c in REFERENCE["series_E"][name].split()]
    p, temperature = int(name[2]), float(name.split("T=")[1])
    glass = dmft.literature.spherical_p_spin(p, T)
    run = dmft.solve(glass, None, 0.1, T=temperature, tol=1e-8, max_step=0.002)
    series = np.polynomial.polynomial.polyval(run.t, coefficients)
    np.testing.assert_allclose(run.E, series, atol=2e-8)
    if name == "p=3,T=0.0":
        assert run.E[-1] == pytest.approx(-0.147802629, abs=2e-8)


def test_relaxation_at_high_temperature_is_that_of_equilibrium():
    """Above T_d the solution forgets its start: C(t, t - tau) solves the equilibrium equation."""
    run = dmft.solve(GLASS, None, 40.0, T=1.0, tol=1e-5)
    lags = (0.5, 1.0, 2.0, 5.0)
    found = [run.at("C", 40.0, 40.0 - lag) for lag in lags]
    np.testing.assert_allclose(found, REFERENCE["eq_T1_C(0.5,1,2,5)"], atol=1e-4)
    # Fluctuation-dissipation theorem: R = -(1/T) dC/dtau, so that chi = (1 - C) / T.
    s, chi = run.integral("R", 40.0)
    _, C = run.row("C", 40.0)
    late = s > 20.0
    np.testing.assert_allclose(chi[late], 1.0 - C[late], atol=3e-4)


def on_uniform_grid(problem, h, t_max):
    """Signals at the times of an equidistant grid, thinning off."""
    count = round(t_max / h)
    times = h * np.arange(count + 3)
    control = Control(t_max, np.array([t_max]), 1e-9, h, h, times)
    run = march(start(problem, {}, control))
    return times[1 : count + 1], np.array(run.signals)[1 : count + 1]


def test_convergence_is_of_third_order_at_least():
    """Slope of the largest error over [0.5, 4] between steps 0.1 and 0.0125, against Bessel."""
    problem = build_volterra(TWO)
    E = problem.signals.index("E")
    gaps = []
    for h in (0.1, 0.05, 0.025, 0.0125):
        t, signals = on_uniform_grid(problem, h, 4.0)
        gaps.append(np.abs(signals[:, E] - exact_energy(t))[t > 0.5].max())
    slopes = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert np.all(slopes > 2.85), slopes
    assert gaps[-1] < 2e-6


@pytest.mark.cases(1)
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_thinning_changes_less_than_is_claimed(temperature):
    options = {"T": temperature, "save_at": [3.0, 6.0, 12.0], "tol": 1e-5}
    thinned = dmft.solve(GLASS, None, 12.0, **options)
    full = dmft.solve(GLASS, None, 12.0, thin=False, measure_error=False, **options)
    assert thinned.statistics["grid"] < 0.3 * full.statistics["grid"]
    for name in "CR":
        gap = np.abs(np.tril(thinned[name] - full[name])).max(axis=1)
        assert np.all(gap < thinned.error[name])
        assert gap.max() < 3e-6
    assert np.abs(thinned.E[-1] - full.E[-1]) < 1e-6


@pytest.mark.cases(1)
@pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-5])
def test_claimed_errors_cover(tol):
    """Against a run with a tolerance a hundred times smaller."""
    save_at = [0.3, 1.0, 3.0, 10.0]
    run = dmft.solve(GLASS, None, 10.0, T=0.3, tol=tol, save_at=save_at)
    truth = dmft.solve(GLASS, None, 10.0, T=0.3, tol=tol / 100, save_at=save_at)
    for name in ("C", "R"):
        gap = np.abs(np.tril(run[name] - truth[name])).max(axis=1)
        assert np.all(gap <= run.error[name] + truth.error[name])
    for t in save_at:
        here, there = (int(np.argmin(abs(r.t - t))) for r in (run, truth))
        for name in ("E", "mu"):
            gap = abs(run[name][here] - truth[name][there])
            assert gap <= run.error[name][here] + truth.error[name][there]


@pytest.mark.slow
def test_long_run_reaches_the_threshold_energy():
    """T = 0, t = 10^3: the fit E + c t^(-2/3) over the last decade gives -2/sqrt(3) to 2e-3."""
    run = dmft.solve(GLASS, None, 1000.0, T=0, tol=1e-4)
    late = run.t > 100.0
    x = run.t[late] ** (-2.0 / 3.0)
    (limit, _), _ = np.linalg.lstsq(np.stack([x**0, x], axis=1), run.E[late], rcond=None)[:2]
    assert run.status == "ok"
    assert limit == pytest.approx(-2 / np.sqrt(3), abs=2e-3)
