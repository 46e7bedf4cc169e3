"""Random recurrent networks: published statics, other quadratures, the two-time solution."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh_tridiagonal

import dmft
from dmft.errors import BadParameter
from dmft.literature import random_network

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "two_time.json").read_text(encoding="utf-8")
)["rnn"]
z, H = sp.symbols("z h", real=True)
ERF, TANH = sp.erf(sp.sqrt(sp.pi) * z / 2), sp.tanh(z)
ACTIVATIONS = {"erf(sqrt(pi)x/2)": ERF, "tanh": TANH}
# What the published table has at tanh g = 3, 5 is off by 4e-6 and 2e-3: `quadrature_statics` below
# decides. Its correlations are right to 5e-6 (erf g = 2: the two-time solution below), not to 1e-6.
WRONG = {("tanh", 3.0), ("tanh", 5.0)}
ACF_ERROR = 5e-6
CASES = [
    (name, g, v)
    for name in ACTIVATIONS
    for g, v in zip(REFERENCE[name]["g"], REFERENCE[name]["Delta0"], strict=True)
    if (name, g) not in WRONG
]


def network(activation, g):
    return dmft.RandomNetwork(-z + H, z, H, output=activation, std=g)


@lru_cache
def statics(name, g):
    return dmft.stationary(network(ACTIVATIONS[name], g))


@pytest.mark.cases(2)
@pytest.mark.parametrize(("name", "g", "value"), CASES)
def test_published_variances(name, g, value):
    assert statics(name, g).variance == pytest.approx(value, abs=2e-8)


@pytest.mark.parametrize("case", ["erf 2", "tanh 1.5", "tanh 2"])
def test_published_correlations_and_exponents(case):
    name, g = case.split()
    state = statics({"erf": "erf(sqrt(pi)x/2)", "tanh": "tanh"}[name], float(g))
    found = state.correlation(REFERENCE["acf_tau"])
    np.testing.assert_allclose(found, REFERENCE["acf"][f"{name} g={g}"], atol=ACF_ERROR)
    np.testing.assert_allclose(state.correlation([-4.0]), found[3], rtol=1e-12)
    assert state.lyapunov_exponent == pytest.approx(REFERENCE["lyapunov"][name][g], abs=3e-6)


def quadrature_statics(g, variance, points=49):
    """Level V(Delta_0) - V(0) and Lyapunov exponent of tanh by other means.

    Trapezoids in both normals, cosine-spaced covariances, time along the orbit by quadrature, and
    second differences for the eigenvalue.
    """
    x = np.arange(-11, 11.0001, 0.02)
    w = np.exp(-x * x / 2) * 0.02 / np.sqrt(2 * np.pi)
    angle = np.linspace(0.0, np.pi / 2, points)
    delta = variance * np.sin(angle) ** 2
    pair = np.array(
        [
            w @ (np.tanh(np.sqrt(d) * x[:, None] + np.sqrt(max(variance - d, 0)) * x) @ w) ** 2
            for d in delta
        ]
    )
    force = CubicSpline(angle, (-delta + g * g * pair) * variance * np.sin(2 * angle))
    V = force.antiderivative()
    slope = CubicSpline(delta, -delta + g * g * pair).derivative()
    # dtau = dDelta / sqrt(-2 V) as a function of the angle; both ends are regular in it.
    inner = np.linspace(0.05, np.pi / 2 - 1e-3, 40001)
    level = V(inner) - V(np.pi / 2) * np.sin(inner) ** 2
    speed = variance * np.sin(2 * inner) / np.sqrt(-2 * level)
    tau = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(inner))])
    tau = tau[-1] - tau + speed[-1] * 1e-3
    # Beyond, Delta is below 0.0025 Delta_0 and decays exponentially.
    kappa, h = np.sqrt(-slope(0.0)), 0.01
    grid = np.arange(h / 2, tau[0] + 12 / kappa, h)
    orbit = variance * np.sin(np.interp(grid, tau[::-1], inner[::-1])) ** 2
    W = -slope(orbit * np.exp(-kappa * np.maximum(grid - tau[0], 0)))
    diagonal = 2 / h**2 + W
    diagonal[0] -= 1 / h**2  # even states
    ground = eigh_tridiagonal(
        diagonal, np.full(grid.size - 1, -1 / h**2), select="i", select_range=(0, 0)
    )[0][0]
    return float(V(np.pi / 2)) / variance**2, np.sqrt(1 - ground) - 1


@pytest.mark.parametrize("g", [2.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_statics_of_tanh_by_other_means(g):
    state = statics("tanh", g)
    level, exponent = quadrature_statics(g, state.variance)
    assert abs(level) < 1e-8
    assert state.lyapunov_exponent == pytest.approx(exponent, abs=1e-5)


@pytest.mark.slow
def test_strong_coupling_by_other_means():
    """tanh, g = 5: the published 16.96226 does not meet V(Delta_0) = V(0), ours does."""
    state = statics("tanh", 5.0)
    assert state.variance == pytest.approx(16.9640457, abs=1e-6)
    assert abs(quadrature_statics(5.0, state.variance, points=97)[0]) < 1e-8
    assert abs(quadrature_statics(5.0, 16.96226166)[0]) > 1e-5


def test_two_time_solution_becomes_stationary():
    """From any start the two-time equations forget it: C(t, t - tau) is the orbit's."""
    state = statics("erf(sqrt(pi)x/2)", 2.0)
    run = dmft.solve(random_network(ERF, 2, variance=2), None, 150.0, tol=1e-5, save_at=[150.0])
    lags = np.array(REFERENCE["acf_tau"], dtype=float)
    found = [run.at("C", 150.0, 150.0 - lag) for lag in lags]
    np.testing.assert_allclose(found, state.correlation(lags), atol=3e-5)


@pytest.mark.slow
def test_two_time_solution_decides_between_the_tables():
    """At t = 300 it is ours to 2e-7, and off the published correlations by 2.6e-6."""
    state = statics("erf(sqrt(pi)x/2)", 2.0)
    start = state.variance
    run = dmft.solve(random_network(ERF, 2, variance=start), None, 300.0, tol=1e-7, save_at=[300.0])
    lags = np.array(REFERENCE["acf_tau"], dtype=float)
    found = np.array([run.at("C", 300.0, 300.0 - lag) for lag in lags])
    np.testing.assert_allclose(found, state.correlation(lags), atol=2e-7)
    assert np.abs(found - REFERENCE["acf"]["erf g=2"]).max() > 2e-6


def test_quiet_networks_die_out():
    """g < 1: the rest state attracts at rate 1 - g in the field."""
    state = dmft.stationary(network(ERF, 0.8))
    assert (state.variance, state.lyapunov_exponent) == (0.0, pytest.approx(-0.2, abs=1e-12))
    assert state.correlation([0.0, 3.0]).tolist() == [0.0, 0.0]
    run = dmft.solve(random_network(ERF, 0.8), None, 60.0, tol=1e-6)
    assert 0.0 < run.C_diagonal[-1] < 2e-12
    assert run.C_diagonal[-1] < run.error.C_diagonal[-1]


def test_simulated_network_has_this_variance():
    """N = 400, one network: fields after a transient, against the theory within its fluctuation."""
    rng = np.random.default_rng(3)
    count, g, dt = 400, 2.0, 0.1
    J = rng.standard_normal((count, count)) * g / np.sqrt(count)
    h = rng.standard_normal(count)
    squares = []
    for n in range(1500):
        k1 = -h + J @ np.tanh(h)
        h = h + dt * (-(h + dt / 2 * k1) + J @ np.tanh(h + dt / 2 * k1))
        if n > 500:
            squares.append(np.mean(h**2))
    assert np.mean(squares) == pytest.approx(statics("tanh", 2.0).variance, rel=0.1)


def test_refusals():
    with pytest.raises(BadParameter, match="odd"):
        dmft.stationary(network(sp.Max(z, 0), 2.0))
    with pytest.raises(BadParameter, match="negative"):
        network(TANH, -1.0)
    with pytest.raises(BadParameter, match="bounded"):
        dmft.stationary(network(z, 2.0))
    with pytest.raises(BadParameter, match="jump"):
        dmft.stationary(network(sp.sign(z), 2.0))
    with pytest.raises(BadParameter, match="lags"):
        statics("erf(sqrt(pi)x/2)", 2.0).correlation(1e4)
