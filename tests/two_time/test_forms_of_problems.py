"""Averages from tables, families of functions, signals alone, parameters that follow the time."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.gaussian.tables.tabled import tabled_expectation
from dmft.model import FIELD

t, s, u = sp.symbols("t s u")
z = sp.Symbol("z", real=True)
C, R = sp.symbols("C R", cls=sp.Function)


@pytest.mark.slow
def test_a_network_of_tanh_reaches_its_stationary_state():
    """Pair averages by table; the truth is the particle in a potential of the statics."""
    network = dmft.literature.random_network(sp.tanh(z), 2.0, variance=1.9)
    run = dmft.solve(network, None, 90.0, tol=1e-4, measure_error=False)
    length = np.sqrt(np.diagonal(run.C))
    assert np.all(np.abs(run.C) <= np.outer(length, length) * (1 + 1e-12))
    h = sp.Symbol("h", real=True)
    state = dmft.stationary(dmft.RandomNetwork(-z + h, z, h, output=sp.tanh(z), std=2))
    assert run.status == "ok"
    assert run.C_diagonal[-1] == pytest.approx(state.variance, rel=2e-4)  # off by 0.4 % at t = 30
    for lag in (1.0, 4.0):
        wanted = float(state.correlation(lag))
        assert run.at("C", 90.0, 90.0 - lag) == pytest.approx(wanted, rel=3e-4)


@pytest.mark.slow
def test_tables_give_what_closed_forms_give():
    """E erf erf from tables and in closed form: the same network."""
    phi = sp.erf(FIELD)
    closed = dmft.literature.random_network(sp.erf(z), 2.5, 0.7)
    average = tabled_expectation([phi, phi], "tu", lambda x, y: C(*map(sp.Symbol, sorted(x + y))))
    drive = sp.Float(2.5) ** 2 * average
    tables = dmft.TwoTime(
        rates={
            C(t, s): -C(t, s) + sp.Integral(drive * R(s, u), (u, 0, s)),
            R(t, s): -R(t, s),
            C(t, t): -2 * C(t, t) + 2 * sp.Integral(drive * R(t, u), (u, 0, t)),
        },
        values={R(t, t): 1}, start={C(0, 0): sp.Float(0.7)}, causal=[R],
    )  # fmt: skip
    runs = [
        dmft.solve(y, None, 3.0, tol=1e-5, measure_error=False, save_at=[3.0])
        for y in (closed, tables)
    ]
    first, second = (np.interp(np.linspace(0, 3, 20), *run.row("C", 3.0)) for run in runs)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert first[-1] > 1.5


def test_a_network_of_tanh_at_early_times_is_that_of_the_definition():
    """dC(t, t)/dt at the start by quadrature, and `evaluate` with the same tables."""
    network = dmft.literature.random_network(sp.tanh(z), 1.5, variance=0.8)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    square = w @ np.tanh(np.sqrt(0.8) * x) ** 2 / w.sum()
    run = dmft.solve(network, None, 0.05, tol=1e-8, measure_error=False)
    # C(t, t) = 0.8 (1 - 2 t + 2 t^2) + g^2 <tanh^2> t^2 + O(t^3).
    second = (run.C_diagonal - 0.8 * np.exp(-2 * run.t))[-1] / run.t[-1] ** 2
    assert second == pytest.approx(1.5**2 * square, rel=0.1)
    known = {"C": lambda t, s: 0.8, "R": lambda t, s: 1.0}
    found = network.evaluate(known, 1.0, 0.5)
    assert found["C"] == pytest.approx(-0.8 + 1.5**2 * square * 0.5, abs=1e-9)


def test_signals_alone_are_ordinary_differential_equations():
    a, b = sp.symbols("a b", cls=sp.Function)
    k = sp.Symbol("k")
    cycle = dmft.TwoTime(
        rates={a(t): a(t) - k * a(t) * b(t), b(t): a(t) * b(t) - b(t)},
        start={a(0): 1, b(0): sp.Rational(1, 2)},
    )
    run = dmft.solve(cycle, None, 8.0, k=0.7, tol=1e-8, max_steps=3000)
    exact = scipy.integrate.solve_ivp(
        lambda _, y: [y[0] - 0.7 * y[0] * y[1], y[0] * y[1] - y[1]], (0, 8.0), [1, 0.5],
        rtol=1e-11, atol=1e-12, dense_output=True,
    )  # fmt: skip
    gap = np.abs(np.stack([run.a, run.b]) - exact.sol(run.t))
    assert run.status == "ok"
    assert gap.max() < 1e-5
    assert np.all(gap[0] <= run.error.a + 1e-9)
    assert cycle.evaluate({"a": lambda _: 2.0, "b": lambda _: 3.0}, 1.0, k=1.0)["a"] == -4.0


def test_a_family_of_correlations():
    """dx = -A x dt + sqrt(2) dW with an A that is not symmetric: covariances by Lyapunov."""
    A = sp.Matrix([[1, 2, 0], [-1, sp.Rational(3, 2), sp.Rational(1, 2)], [0, 1, 2]])
    n = range(3)
    X = [[sp.Function(f"C_{a}{b}") for b in n] for a in n]

    def pull(a, b, first, second):
        return -sum(A[a, c] * X[c][b](first, second) for c in n)

    rates = {X[a][b](t, s): pull(a, b, t, s) for a in n for b in n}
    rates |= {
        X[a][b](t, t): pull(a, b, t, t) + pull(b, a, t, t) + 2 * (a == b) for a in n for b in n
    }
    problem = dmft.TwoTime(rates=rates, start={X[a][b](0, 0): 0 for a in n for b in n})
    run = dmft.solve(problem, None, 2.0, tol=1e-7)
    drift = np.array(A, dtype=float)
    still = scipy.linalg.solve_continuous_lyapunov(drift, 2 * np.eye(3))
    decay = scipy.linalg.expm(-drift * 0.8)
    exact = still - scipy.linalg.expm(-drift * 1.2) @ still @ scipy.linalg.expm(-drift.T * 1.2)
    row = np.array([[run.at(f"C_{a}{b}", 2.0, 1.2) for b in n] for a in n])
    np.testing.assert_allclose(row, decay @ exact, atol=2e-5)


def test_parameters_may_follow_the_time():
    """An oven that cools: m' = -rate m, and heat in a covariance; exact integrals."""
    m = sp.Function("m")
    rate, heat = sp.symbols("rate heat")
    oven = dmft.TwoTime(
        rates={
            m(t): -rate * m(t), C(t, s): -C(t, s), R(t, s): -R(t, s),
            C(t, t): -2 * C(t, t) + 2 * heat,
        },
        values={R(t, t): 1}, start={m(0): 1, C(0, 0): 0}, causal=[R],
    )  # fmt: skip
    time = sp.Symbol("t", positive=True)
    run = dmft.solve(oven, None, 2.0, tol=1e-7, rate=time, heat=sp.exp(-time))
    np.testing.assert_allclose(run.m, np.exp(-(run.t**2) / 2), atol=1e-5)
    exact = 2 * (np.exp(-run.t) - np.exp(-2 * run.t))
    np.testing.assert_allclose(run.C_diagonal, exact, atol=1e-5)
    assert oven.replace({"rate": 2}).parameters == (heat,)
    with pytest.raises(BadParameter, match="not a parameter"):
        oven.replace({"speed": time})
    with pytest.raises(BadParameter, match="pass k"):
        dmft.solve(oven, None, 1.0, rate=sp.Symbol("k") * time, heat=1.0)


def test_any_symbol_names_a_parameter_and_any_function_is_compiled():
    """Parameters called like the time under the integrals; powers of a symbol, angles."""
    v, n = sp.symbols("v n")

    def problem(a):
        heard = sp.cos(a * C(t, v))
        return dmft.TwoTime(
            rates={
                C(t, s): -a * sp.atan(C(t, s)) + sp.Integral(heard * R(s, v), (v, 0, s)),
                R(t, s): -R(t, s),
                C(t, t): -2 * C(t, t) + a * sp.Integral(C(t, v) ** n * R(t, v), (v, 0, t)),
            },
            values={R(t, t): 1}, start={C(0, 0): 1}, causal=[R],
        )  # fmt: skip

    options = {"tol": 1e-6, "measure_error": False, "save_at": [1.0]}
    first = dmft.solve(problem(u), None, 1.0, u=0.7, n=2.0, **options)
    plain = problem(sp.Symbol("kappa")).replace({"n": 2, "kappa": 0.7})
    second = dmft.solve(plain, None, 1.0, **options)
    assert first.C_diagonal[-1] == pytest.approx(second.C_diagonal[-1], rel=1e-10)
    assert first.at("C", 1.0, 0.4) == pytest.approx(second.at("C", 1.0, 0.4), rel=1e-10)
