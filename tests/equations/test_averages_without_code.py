"""Averages that are closed on paper in functions that code does not have."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from scipy.stats import norm

import dmft
from dmft.codegen.graph import COST
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.passes import CODED, without_code
from dmft.errors import NotClosed
from dmft.gaussian.tables.factor_table import factor_table
from dmft.model import FIELD

z, z1, z2 = sp.symbols("z z1 z2", real=True)
PIECES = sp.Piecewise((z**2, z < 0), (sp.sin(z), True))


def line():
    """Points and weights of a standard normal variable on panels."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    edges = np.linspace(-10, 10, 41)
    half = np.diff(edges)[:, None] / 2
    x = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    return x, (half * weights).ravel() * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def product_truth(q, m):
    """Risk of PIECES on z1 z2 at P = 1: E[z1 z2 | h] is a polynomial in h."""
    x, w = line()
    h = np.sqrt(q) * x
    f = np.where(h < 0, h**2, np.sin(h))
    target = m * m / q * (x**2 - 1)
    return float(w @ f**2 / 2 + 0.5 - w @ (f * target))


def cosine_truth(q, m):
    """Risk of cos on max(z1, z2): given h, max is mean + |difference| / 2 of independent parts."""
    x, w = line()
    rest = 1 - m * m / q  # both fields have the same mean given h, and covariance -m^2/q
    gap = np.sqrt(2 * (rest + m * m / q)) * np.sqrt(2 / np.pi) / 2
    best = m / q * np.sqrt(q) * x + gap
    f = np.cos(np.sqrt(q) * x)
    return float(w @ f**2 / 2 + 0.5 - w @ (f * best))


def views(model, equations, start):
    """All that must not raise where `evaluate` works."""
    rates, errors = equations.evaluate(start), equations.evaluate_error(start)
    assert all(np.all(np.isfinite(r)) for r in rates.values())
    assert all(np.all(np.isfinite(r)) for r in errors.values())
    assert equations.open_kernels == ()
    assert "align" in equations.latex()
    assert "align" in dmft.population_risk(model).latex()
    return rates


@pytest.mark.parametrize(
    ("activation", "target", "truth", "options"),
    [
        # Its tables are large: a minute. Given the teacher's fields it is smooth in these.
        pytest.param(PIECES, z1 * z2, product_truth, {}, marks=pytest.mark.slow),
        pytest.param(
            sp.cos(z), sp.Max(z1, z2), cosine_truth, {"nodes": 4096}, marks=pytest.mark.slow
        ),
    ],
    ids=["pieces on a product", "cosine on a maximum"],
)
def test_what_has_no_code_goes_to_nodes(activation, target, truth, options):
    model = dmft.Model(dmft.Committee(activation, 1), dmft.MultiIndex(target, [z1, z2]))
    start = dmft.Overlaps([[0.8]], [[0.3, 0.3]], np.eye(2))
    risk = dmft.population_risk(model)
    value = risk(start.Q, start.M, start.P, **options)
    assert abs(value - truth(0.8, 0.3)) < 3 * value.error + 1e-10
    equations = dmft.derive(model, dmft.GradientFlow())
    views(model, equations, start)
    assert "nodes" in equations.approximation
    # On paper they are closed: `explicit` writes them, `erfi` included.
    written = equations.explicit()
    assert written.risk.has(sp.erfi)
    known = {"Q_11": 0.8, "M_11": 0.3, "M_12": 0.3, "P_11": 1.0, "P_22": 1.0, "P_12": 0.0}
    numbers = {symbol: known[name] for name, symbol in written.symbols.items() if name in known}
    assert float(written.risk.subs(numbers).evalf(20)) == pytest.approx(truth(0.8, 0.3), abs=1e-10)


@pytest.mark.slow
def test_products_of_four_fields_with_erfi_go_to_nodes():
    model = dmft.Model(dmft.Committee(sp.erf(z / sp.sqrt(2)), 1), dmft.Committee(sp.sin(z), 1))
    equations = dmft.derive(model, dmft.SGD(learning_rate=0.5))
    start = dmft.Overlaps([[0.0]], [[0.0]], [[1.0]])
    rates = equations.evaluate(start)
    square = (1 - np.exp(-2)) / 2  # E sin^2; the slope at 0 is sqrt(2/pi)
    error = equations.evaluate_error(start)["Q"][0, 0]
    assert abs(rates["Q"][0, 0] - 0.5 * 2 / np.pi * square) < 3 * error + 1e-10
    assert "align" in equations.latex()
    assert "nodes" in equations.approximation


def test_both_languages_have_what_closed_forms_may_hold():
    assert set(FUNCTIONS) >= CODED
    assert set(COST) >= CODED - {"PairOfSignsMoment"}  # which is lowered to its regular form
    C = sp.Indexed("Omega", 1, 1)
    assert without_code(sp.erfi(C) + sp.exp(C) * sp.cos(2)) == ["erfi"]


def test_factors_without_a_table_have_an_error_that_is_not_known(monkeypatch):
    """`error` and `approximation` do not raise where `evaluate` works."""

    def refuse(factor):
        raise NotClosed(f"{factor} is not resolved")

    monkeypatch.setattr("dmft.gaussian.tables.factor_table.factor_table", refuse)
    model = dmft.Model(dmft.Committee(sp.tanh(z), 1), dmft.Committee(z, 1))
    equations = dmft.derive(model, dmft.GradientFlow())
    assert equations.error == np.inf
    assert "error not known" in equations.approximation


@pytest.mark.slow
@pytest.mark.parametrize(
    "position",
    [sp.Rational(89, 50), *(pytest.param(sp.Rational(n, 50), marks=pytest.mark.slow)
                            for n in (26, 63, 137, 187, 247))],
)  # fmt: skip
def test_kinks_off_zero_have_tables(position):
    """Max(0, z - 89/50) on a sigmoid: where F vanishes its smoothings are faint tails."""
    from dmft.special.averages import field_average

    table = factor_table(sp.Max(0, FIELD - position))
    t, s = float(position), np.array([0.3, 0.7, 1.0, 3.0, 9.0])
    for scale in s:
        a = t / scale
        exact = scale * (norm.pdf(a) - a * norm.sf(a))
        size = scale * np.sqrt((1 + a * a) * norm.sf(a) - a * norm.pdf(a))
        found = field_average(table.values, 0.0, scale**2)
        # A ramp that starts beyond ten deviations has no size there: no digit of 1e-25 is claimed.
        reached = max(size, 1e-4 * (10 * scale - t)) if a < 10 else 0.0
        assert abs(found - exact) <= table.error * reached + 1e-15 * size + (a >= 10) * 1e-25
    assert table.error < 4.9e-11


@pytest.mark.slow
def test_a_shifted_ramp_on_a_sigmoid_has_every_view():
    model = dmft.Model(
        dmft.Committee(sp.Max(0, z - sp.Rational(89, 50)), 1),
        dmft.Committee(1 / (1 + sp.exp(-z)), 1),
    )
    equations = dmft.derive(model, dmft.SGD(learning_rate=0.5, readout_rate=0.3))
    start = dmft.Overlaps([[0.8]], [[0.3]], [[1.0]])
    rates = views(model, equations, start)
    assert 0 < equations.error < 1e-10
    assert "tables" in equations.approximation
    run = dmft.solve(equations, start, t_max=1e-4)
    slope = (run.Q[-1, 0, 0] - run.Q[0, 0, 0]) / 1e-4
    assert slope == pytest.approx(rates["Q"][0, 0], rel=1e-2)
