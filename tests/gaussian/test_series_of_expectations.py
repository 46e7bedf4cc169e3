"""`Gaussian.series`: the bound holds and is tight, judged by quadrature of the definition."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.special import erf as scipy_erf

import dmft
from dmft.errors import BadParameter, NotClosed

x, y, w, a = sp.symbols("x y w a", real=True)
q, r, m = sp.symbols("q r m", positive=True)

# name: (expression, the same in NumPy, degree of homogeneity where it has a kink at zero).
SMOOTH = {
    "erf": (lambda u: sp.erf(u / sp.sqrt(2)), lambda u: scipy_erf(u / np.sqrt(2))),
    "sin": (lambda u: sp.sin(u + sp.Rational(1, 2)), lambda u: np.sin(u + 0.5)),
    "exp": (lambda u: sp.exp(u / 2), lambda u: np.exp(u / 2)),
    "bump": (lambda u: u * sp.exp(-(u**2) / 3), lambda u: u * np.exp(-(u**2) / 3)),
    "cubic": (lambda u: u**3 - u + 1, lambda u: u**3 - u + 1),
    "tanh": (sp.tanh, np.tanh),
}
KINKED = {
    "sign": (sp.sign, np.sign, 0),
    "step": (sp.Heaviside, lambda u: (u > 0) * 1.0, 0),
    "relu": (lambda u: sp.Max(0, u), lambda u: np.maximum(u, 0), 1),
    "abs": (sp.Abs, np.abs, 1),
}
EDGES = np.linspace(-11, 11, 23)
LEGENDRE = np.polynomial.legendre.leggauss(20)
NODES = ((EDGES[:-1, None] + EDGES[1:, None]) / 2 + LEGENDRE[0] / 2).ravel()
WEIGHTS = np.tile(LEGENDRE[1] / 2, len(EDGES) - 1) * np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi)


def truth(one, two, variances, rho):
    """E f(x) g(y) by quadrature; EDGES hold the kink at zero, kinks of both go by polar angle."""
    if one in KINKED and two in KINKED:
        (_, f, i), (_, g, j) = KINKED[one], KINKED[two]
        # The angle between nearly parallel fields, from the difference that floats hold exactly.
        small = 2 * np.arcsin(np.sqrt((1 - abs(rho)) / 2))
        turn = small if rho > 0 else np.pi - small
        radius = {0: 1.0, 1: np.sqrt(np.pi / 2), 2: 2.0}[i + j]
        angles = np.sort([0, 0.5 * np.pi, 1.5 * np.pi, turn + 0.5 * np.pi,
                          (turn + 1.5 * np.pi) % (2 * np.pi), 2 * np.pi])  # fmt: skip
        total = sum(
            quad(lambda t: f(np.cos(t)) * g(np.cos(t - turn)), low, high, epsabs=1e-14)[0]
            for low, high in pairwise(angles)
        )
        return variances[0] ** (i / 2) * variances[1] ** (j / 2) * radius * total / (2 * np.pi)
    if two in KINKED:
        return truth(two, one, variances[::-1], rho)
    f, g = ((SMOOTH | KINKED)[name][1] for name in (one, two))
    inner = rho * NODES[:, None] + np.sqrt((1 - rho) * (1 + rho)) * NODES
    return WEIGHTS * f(np.sqrt(variances[0]) * NODES) @ g(np.sqrt(variances[1]) * inner) @ WEIGHTS


def random_triples(count, seed, names):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield (
            *(str(n) for n in rng.choice(names, 2)),
            rng.choice([0.25, 0.5625, 1.0, 1.5625], 2),
            rng.choice([-1, 1]) * rng.uniform(0.05, 0.97),
            int(rng.integers(0, 12)),
        )


def triples_at_the_edge(count, seed, names):
    """Correlations within 1e-2 to 1e-13 of 1 and -1; variances whose products are exact."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield (
            *(str(n) for n in rng.choice(names, 2)),
            rng.choice([0.25, 1.0], 2),
            float(rng.choice([-1, 1]) * (1 - 10 ** rng.uniform(-13, -2))),
            int(rng.integers(0, 12)),
        )


def check_triples(triples, noise=1e-12):
    """Bounds hold on all; their ratios to the errors of those that truncate anything."""
    ratios = []
    for one, two, variances, rho, order in triples:
        cross = rho * np.sqrt(np.prod(variances))
        law = dmft.Gaussian([x, y], [[variances[0], cross], [cross, variances[1]]])
        f, g = ((SMOOTH | KINKED)[name][0] for name in (one, two))
        series = law.series(f(x) * g(y), order)
        error = abs(float(series) - truth(one, two, variances, rho))
        assert error <= float(series.bound) + noise, (one, two, variances, rho, order)
        if error > 100 * noise:
            ratios.append(float(series.bound) / error)
    return np.array(ratios)


def test_bounds_hold_and_are_tight_on_random_triples():
    names = [n for n in (*SMOOTH, *KINKED) if n != "tanh"]
    ratios = check_triples(random_triples(9, seed=0, names=names))
    assert len(ratios) > 3
    assert 1 <= np.median(ratios) < 2


def test_bounds_hold_for_numerical_coefficients():
    ratios = check_triples([("tanh", "tanh", np.array([0.25, 0.25]), 0.7, 2)])
    assert 1 <= np.median(ratios) < 2


@pytest.mark.slow
def test_bounds_hold_and_are_tight_on_a_thousand_triples():
    names = [*SMOOTH, *KINKED]
    ratios = check_triples(random_triples(1000, seed=2, names=names))
    assert len(ratios) > 400
    assert 1 <= np.median(ratios) < 2
    assert np.quantile(ratios, 0.9) < 10
    edge = check_triples(triples_at_the_edge(1000, seed=6, names=names), noise=1e-13)
    assert len(edge) > 200
    assert 1 <= np.median(edge) < 2
    assert np.quantile(edge, 0.9) < 30


def test_bounds_hold_at_the_edge():
    names = ["sign", "relu", "abs", "erf", "exp"]
    ratios = check_triples(triples_at_the_edge(14, seed=7, names=names), noise=1e-13)
    assert len(ratios) > 3
    assert 1 <= np.median(ratios) < 2


def test_errors_and_bounds_go_to_zero_at_the_edge():
    for sign, f, g in [(1, sp.sign, sp.sign), (-1, sp.Abs, sp.erf), (1, sp.sign, sp.cos)]:
        bounds = []
        for gap in (1e-4, 1e-8, 1e-12):
            rho = sign * (1 - gap)
            law = dmft.Gaussian([x, y], [[1, rho], [rho, 1]])
            series = law.series(f(x) * g(y), 3, edge=True)
            assert series.edge
            assert abs(float(series) - float(law.expect(f(x) * g(y)))) <= series.bound + 1e-15
            assert law.series(f(x) * g(y), 3, edge=False).bound >= series.bound
            bounds.append(float(series.bound))
        # At worst as the root of the gap, which is exact for a pair of signs.
        assert bounds[1] <= 0.011 * bounds[0]
        assert bounds[2] <= 0.011 * bounds[1]


def test_the_edge_form_with_symbols():
    rho = sp.Symbol("rho", real=True)
    law = dmft.Gaussian([x, y], [[1, rho], [rho, 1]])
    product = sp.Max(0, x) * sp.Max(0, y)
    series = law.series(product, 2, edge=True)
    assert series.expr.free_symbols == series.bound.free_symbols == {rho}
    # Exact at both ends, and within the bound between.
    assert sp.simplify(series.expr.subs(rho, 1) - sp.Rational(1, 2)) == 0
    assert sp.simplify(series.expr.subs(rho, -1)) == 0
    for value in (-0.999, -0.4, 0.3, 0.9, 1 - 1e-9):
        error = abs(float(series.expr.subs(rho, value)) - truth("relu", "relu", (1.0, 1.0), value))
        assert error <= float(series.bound.subs(rho, value)) + 1e-15
    open_one = law.series(sp.tanh(x) * sp.tanh(y), 1, edge=True)
    assert float(open_one.bound.subs(rho, 1)) < 1e-15
    second = dmft.hermite_expansion(sp.tanh(x) ** 2, x, 0)[0]
    assert float(open_one.expr.subs(rho, 1)) == pytest.approx(float(second), abs=1e-15)


def test_the_judge_knows_the_arcsine_and_the_arc_cosine():
    rho = 0.37
    assert truth("sign", "sign", (2.0, 0.5), rho) == pytest.approx(2 / np.pi * np.arcsin(rho))
    arc = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)
    assert truth("relu", "relu", (1.0, 1.0), rho) == pytest.approx(arc)
    assert truth("relu", "cubic", (1.0, 1.0), rho) == pytest.approx(
        # c_n of ReLU: 1/sqrt(2 pi), 1/2, ., 0; of the cubic: 1, 2, 0, 6.
        1 / np.sqrt(2 * np.pi) + rho
    )


def test_symbolic_correlation_gives_a_polynomial_and_a_symbolic_bound():
    law = dmft.Gaussian([x, y], [[1, m], [m, 1]])
    series = law.series(sp.Max(0, x) * sp.Max(0, y), 4)
    expected = 1 / (2 * sp.pi) + m / 4 + m**2 / (4 * sp.pi) + m**4 / (48 * sp.pi)
    assert sp.simplify(series.expr - expected) == 0
    assert series.exact
    assert series.bound.free_symbols == {m}
    for rho in (0.2, 0.9, 0.999):
        exact = truth("relu", "relu", (1.0, 1.0), rho)
        error = abs(exact - float(series.expr.subs(m, rho)))
        assert error < float(series.bound.subs(m, rho)) < 1.5 * error
    assert r"\pm" in series.latex()


def test_symbolic_variances_where_coefficients_close():
    law = dmft.Gaussian([x, y], [[q, m], [m, 1]])
    sigma = sp.erf(x / sp.sqrt(2)) * sp.erf(y / sp.sqrt(2))
    series = law.series(sigma, 3)
    point = {q: 0.8, m: 0.6}
    exact = float(law.expect(sigma).subs(point))
    error = abs(exact - float(series.expr.subs(point)))
    assert 0 < error < float(series.bound.subs(point)) < 1.5 * error


def test_polynomials_end_by_themselves():
    law = dmft.Gaussian([x, y], [[q, m], [m, r]])
    series = law.series(x**3 * y**3 + a * x * y, 3)
    assert sp.expand(series.expr - law.expect(x**3 * y**3 + a * x * y)) == 0
    assert series.bound == 0
    assert r"\pm" not in series.latex()


def test_means_derived_fields_and_coefficients():
    law = dmft.Gaussian([x, y], [[1.0, 0.3], [0.3, 0.7]], mean=[0.4, -0.2])
    z = sp.Symbol("z", real=True)  # what the calculus calls its field inside
    expr = z * sp.erf(x + y) * sp.exp(y / 2) + 3 * sp.sin(x)
    series = law.series(expr, 14)
    exact = law.expect(expr)
    for value in (-1.5, 0.7):
        gap = abs(sp.N(series.expr.subs(z, value) - exact.subs(z, value)))
        assert gap < float(series.bound.subs(z, value)) + 1e-12
        assert float(series.bound.subs(z, value)) < 1e-4


def test_coinciding_and_constant_fields():
    parallel = dmft.Gaussian([x, y], [[1, 1], [1, 1]])
    series = parallel.series(sp.tanh(x) * sp.tanh(y), 9)
    second = dmft.hermite_expansion(sp.tanh(x) ** 2, x, 0)[0]
    assert abs(float(series) - float(second)) < float(series.bound) < 1e-2
    fixed = dmft.Gaussian([x, y], [[1, 0], [0, 0]], mean=[0, 2])
    assert float(fixed.series(sp.cos(x) * sp.tanh(y), 4)) == pytest.approx(
        np.exp(-0.5) * np.tanh(2), abs=1e-15
    )


@pytest.mark.parametrize(
    ("expr", "order", "error"),
    [
        (sp.tanh(x) * sp.tanh(y) * sp.tanh(w), 3, NotClosed),
        (sp.tanh(x) * sp.tanh(a * y), 3, NotClosed),
        (sp.tanh(x * y), 3, NotClosed),
        (sp.exp(x**2) * y, 3, BadParameter),
        (x * y, -1, BadParameter),
        ("x", 1, BadParameter),
    ],
)
def test_refusals(expr, order, error):
    law = dmft.Gaussian([x, y, w], sp.eye(3) / 2 + sp.ones(3) / 2)
    with pytest.raises(error):
        law.series(expr, order)


@pytest.mark.cases(3)
@pytest.mark.parametrize("rho", [1, -1, 1.0])
@pytest.mark.parametrize(
    "unit", [lambda t: sp.Max(0, t - sp.Rational(1, 2)), lambda t: sp.Max(0, 1 - sp.Abs(t)),
             lambda t: sp.Max(-1, sp.Min(1, t)), lambda t: sp.Abs(t - 1)],
    ids=["bias", "hat", "hard tanh", "shifted"],
)  # fmt: skip
def test_kinks_off_zero_at_correlation_one(unit, rho):
    """The closed form of their remainder is 0/0 there; what is left out is nothing."""
    x, y = sp.symbols("x y", real=True)
    law = dmft.Gaussian([x, y], [[1, rho], [rho, 1]])
    series = law.series(unit(x) * unit(y), 5)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.array([-12, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8, 12])
    half = np.diff(edges)[:, None] / 2
    u = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    w = (half * weights).ravel() * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    f = sp.lambdify(x, unit(x), "numpy")
    truth = float(w @ (f(u) * f(float(rho) * u)))
    assert abs(float(series.expr) - truth) <= float(series.bound) + 1e-12
