"""Kinks away from zero (ReLU with a bias, ELU, |z - 1|): units that share one meet at 0/0."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.closed.pair import CorrelationRoot, RootRatio

z = sp.Symbol("z", real=True)
# Activation, its value and slope in NumPy, its kink.
KINKED = {
    "bias": (sp.Max(0, z - sp.Rational(1, 2)), lambda x: np.maximum(0, x - 0.5),
             lambda x: 1.0 * (x > 0.5), 0.5),
    "float bias": (sp.Max(0, z + 0.3), lambda x: np.maximum(0, x + 0.3),
                   lambda x: 1.0 * (x > -0.3), -0.3),
    "elu": (sp.Piecewise((z, z > 0), (sp.exp(z) - 1, True)),
            lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
            lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))), 0.0),
    "abs": (sp.Abs(z - 1), lambda x: np.abs(x - 1), lambda x: np.sign(x - 1), 1.0),
}  # fmt: skip


NODES, WEIGHTS = np.polynomial.legendre.leggauss(30)


def line(kink, scale):
    """Gauss-Legendre nodes and weights of N(0, 1) on panels that end where scale x = kink."""
    edges = np.unique([*np.linspace(-10, 10, 21), kink / scale])
    half = np.diff(edges) / 2
    x = ((edges[1:] + edges[:-1]) / 2)[:, None] + half[:, None] * NODES
    w = half[:, None] * WEIGHTS * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return x.ravel(), w.ravel()


def pair(f, g, kink, a, b, c):
    """E f(x) g(y) of covariances a, b, c, split at the kinks of both."""
    x, w = line(kink, np.sqrt(a))
    rest = np.sqrt(max(c - b * b / a, 0.0))
    if rest < 1e-7:
        return float(w @ (f(np.sqrt(a) * x) * g(b / np.sqrt(a) * x)))
    total = 0.0
    for u, v in zip(x, w, strict=True):
        mean = b / np.sqrt(a) * u
        y, weight = line(kink - mean, rest)
        total += v * f(np.sqrt(a) * u) * (weight @ g(mean + rest * y))
    return float(total)


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("rho", [1.3, 0.7])
def test_risk_and_drift_are_the_integrals_of_their_definition(name, rho):
    activation, f, slope, kink = KINKED[name]
    unit = dmft.Committee(activation, width=1)
    model = dmft.Model(unit, unit)
    q, m = 0.9, 0.4
    start = dmft.Overlaps([[q]], [[m]], [[rho]])
    own, cross = pair(f, f, kink, q, q, q), pair(f, f, kink, q, m, rho)
    risk = (own - 2 * cross + pair(f, f, kink, rho, rho, rho)) / 2
    assert dmft.population_risk(model)(start.Q, start.M, start.P) == pytest.approx(risk, abs=1e-10)

    def drift(h, other):
        """E[sigma'(h) h* (sigma(other))] and the same with h, by the regression on both fields."""
        a, b, c = {"h": (q, q, q), "star": (q, m, rho)}[other]
        return (
            pair(slope, lambda y: y * f(y), kink, a, b, c),
            pair(lambda y: y * slope(y), f, kink, a, b, c),
        )

    to_star = drift("h", "star")
    to_own = drift("h", "h")
    # h* given h is (m/q) h plus what is independent of h and of sigma(h).
    B_star = to_star[0] - m / q * to_own[1]
    B = to_star[1] - to_own[1]
    equations = dmft.derive(model, dmft.GradientFlow())
    rates = equations.evaluate(start)
    assert rates["M"].item() == pytest.approx(B_star, abs=1e-9)
    assert rates["Q"].item() == pytest.approx(2 * B, abs=1e-9)


def test_compiled_rates_of_biased_units_equal_the_reference():
    unit = dmft.Committee(KINKED["bias"][0], width=2)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.GradientFlow())
    start = dmft.Overlaps(np.full((2, 2), 0.7), np.full((2, 2), 0.2), [[1.3, 0.3], [0.3, 0.7]])
    rates, problem = equations.evaluate(start), dmft.build(equations)
    ones = {name: np.ones(2) for name in ("readout", "teacher_readout")}
    par, state = (
        problem.pack_parameters({}, {"P": start.P, **ones}),
        problem.pack({"Q": start.Q, "M": start.M}),
    )
    out = np.empty_like(state)
    problem.rhs(0.0, state, np.array([2, 2]), par, out)
    for name, block in problem.unpack(out, {"p": 2, "k": 2}).items():
        np.testing.assert_allclose(block, rates[name], atol=1e-13)
    assert dmft.solve(equations, start, 5.0).status == "ok"


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", KINKED)
def test_equal_units_are_one(name):
    """Two students that coincide move as one, and at the teacher's place they rest."""
    activation = KINKED[name][0]
    flow = dmft.GradientFlow()

    def rates(p, Q, M):
        unit = dmft.Committee(activation, width=p), dmft.Committee(activation, width=1)
        return dmft.derive(dmft.Model(*unit), flow).evaluate(dmft.Overlaps(Q, M, [[1.3]]))

    one, two = rates(1, [[0.8]], [[0.3]]), rates(2, np.full((2, 2), 0.8), np.full((2, 1), 0.3))
    np.testing.assert_allclose(two["M"], np.full((2, 1), one["M"].item()), atol=1e-9)
    np.testing.assert_allclose(two["Q"], np.full((2, 2), one["Q"].item()), atol=1e-9)
    at_rest = rates(1, [[1.3]], [[1.3]])
    assert abs(at_rest["M"].item()) < 1e-12
    assert abs(at_rest["Q"].item()) < 1e-12


@pytest.mark.cases(1)
@pytest.mark.parametrize("rule", [dmft.SGD(0.3), dmft.SGD(0.3, loss="correlation")])
def test_steps_of_biased_units_against_samples(rule):
    activation, f, slope, _ = KINKED["bias"]
    model = dmft.Model(dmft.Committee(activation, 2), dmft.Committee(activation, 1), 0.2)
    W = np.random.default_rng(0).standard_normal((3, 4)) / 2
    O = W @ W.T  # noqa: E741
    rates = dmft.derive(model, rule).evaluate(dmft.Overlaps(O[:2, :2], O[:2, 2:], O[2:, 2:]))
    rng = np.random.default_rng(1)
    parts = []
    for _ in range(20):
        fields = rng.standard_normal((10_000, 4)) @ W.T
        h, star = fields[:, :2], fields[:, 2]
        label = f(star) + np.sqrt(0.2) * rng.standard_normal(star.size)
        error = label - (f(h).mean(1) if rule.loss == "squared" else 0.0)
        psi = slope(h) * error[:, None]
        B = psi.T @ h / star.size
        parts.append(B + B.T + 0.15 * psi.T @ psi / star.size)
    mean, spread = np.mean(parts, axis=0), np.std(parts, axis=0, ddof=1) / np.sqrt(20)
    assert np.all(np.abs(rates["Q"] - mean) < 4.5 * spread)


def test_ratio_over_the_root_of_a_pair():
    a, b, c, y = sp.symbols("a b c y", positive=True)
    ratio = RootRatio(y, a, b, c, 1)
    assert ratio.formula() == y / sp.sqrt(a * b - c**2)
    for symbol in (a, b, c, y):
        elementary = sp.simplify(ratio.formula().diff(symbol))
        derivative = ratio.diff(symbol).replace(
            lambda e: isinstance(e, CorrelationRoot), lambda e: e.formula()
        )
        assert sp.simplify(derivative - elementary) == 0


def test_hats_that_learn_cosines_have_the_rates_of_their_definition():
    """Slopes of hats jump at -1, 0 and 1, and averages with cosines are exponentials there."""
    z = sp.Symbol("z", real=True)
    model = dmft.Model(dmft.Committee(sp.Max(0, 1 - sp.Abs(z)), 1), dmft.Committee(sp.cos(z), 1))
    found = dmft.derive(model, dmft.GradientFlow()).evaluate(
        dmft.Overlaps([[0.8]], [[0.3]], [[1.0]])
    )
    # h between the kinks by Gauss-Legendre, E[cos h* | h] and E[h* cos h* | h] in closed form
    x, w = np.polynomial.legendre.leggauss(60)
    h = np.concatenate([(x - 1) / 2, (x + 1) / 2])
    weight = np.tile(w / 2, 2) * np.exp(-(h**2) / 1.6) / np.sqrt(1.6 * np.pi)
    mean, variance = 0.3 / 0.8 * h, 1.0 - 0.09 / 0.8
    label = np.cos(mean) * np.exp(-variance / 2)
    along = (mean * np.cos(mean) - variance * np.sin(mean)) * np.exp(-variance / 2)
    slope, output = -np.sign(h), 1 - np.abs(h)
    assert found["M"].item() == pytest.approx(
        np.sum(weight * slope * (along - output * mean)), abs=1e-9
    )
    assert found["Q"].item() == pytest.approx(
        2 * np.sum(weight * slope * h * (label - output)), abs=1e-9
    )
