"""Averages by tables against sums and integrals that share nothing with them."""

from itertools import pairwise, product

import numpy as np
import pytest
import sympy as sp
from scipy.special import ndtr

from dmft.emit import cache_directory
from dmft.errors import NotClosed
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables import tabled
from dmft.gaussian.tables.factor_function import FactorFunction, direct_average, direct_pair
from dmft.gaussian.tables.factor_table import _Builder, factor_table
from dmft.gaussian.tables.tabled import FieldTable, PairTable, tabled_expectation
from dmft.model import FIELD as z
from dmft.special.averages import field_average, kinked_pair_average, pair_average

# SymPy factor and the same function written for NumPy.
SMOOTH = {
    "tanh": (sp.tanh(z), np.tanh),
    "tanh'": (1 - sp.tanh(z) ** 2, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (1 / (1 + sp.exp(-z)), lambda x: 0.5 + 0.5 * np.tanh(x / 2)),
    "softplus": (sp.log(1 + sp.exp(z)), lambda x: np.logaddexp(0.0, x)),
    "SiLU": (z / (1 + sp.exp(-z)), lambda x: x * (0.5 + 0.5 * np.tanh(x / 2))),
    "GELU": (z * (1 + sp.erf(z / sp.sqrt(2))) / 2, lambda x: x * ndtr(x)),
    "bump": (sp.sin(z) * sp.exp(-(z**2)), lambda x: np.sin(x) * np.exp(-x * x)),
    "He2": (z**2 - 1, lambda x: x * x - 1),
}
KINKED = {
    "half tanh": (sp.tanh(sp.Max(z, 0)), lambda x: np.tanh(np.maximum(x, 0))),
    "step": (
        sp.Heaviside(z, sp.S.Half) * (1 - sp.tanh(z) ** 2),
        lambda x: np.where(x > 0, 1 - np.tanh(x) ** 2, np.where(x < 0, 0.0, 0.5)),
    ),
    "softsign": (z / (1 + sp.Abs(z)), lambda x: x / (1 + np.abs(x))),
}
EDGES = (1.0, -1.0, 1 - 1e-12, -1 + 1e-12, 1 - 1e-6, 0.0)


def trapezoid(f, g, c11, c12, c22):
    """E f(u) g(v) by the trapezoidal rule, which converges geometrically for analytic factors."""
    s1 = np.sqrt(c11)
    slope = c12 / s1
    sigma = np.sqrt(max(c22 - slope**2, 0.0))
    step = min(0.3, 0.2 / np.sqrt(max(c11, c22)))
    x = step * np.arange(-int(9.5 / step), int(9.5 / step) + 1)
    w = step * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    total = 0.0
    for n in range(0, x.size, 100):
        a = x[n : n + 100, None]
        total += (w[n : n + 100, None] * w * f(s1 * a) * g(slope * a + sigma * x)).sum()
    return total


def wedges(f, g, c11, rho, c22):
    """E f(u) g(v) in polar coordinates, split where u or v vanishes: kinks at 0 are edges."""
    t, w = np.polynomial.legendre.leggauss(24)
    angle = np.arccos(rho)
    size = max(np.sqrt(c11), np.sqrt(c22), 1.0)
    radii = np.linspace(0.0, 10.0, int(10 * size) + 8)
    lines = np.array([-0.5, 0.5]) * np.pi
    edges = np.unique(
        np.concatenate([[-np.pi, np.pi], lines, (angle + lines + np.pi) % (2 * np.pi) - np.pi])
    )
    # Between the lines the panels double, because large fields vary fast next to a line.
    fine = [a + (b - a) * s for a, b in pairwise(edges)
            for s in (0, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)]  # fmt: skip
    edges = np.array([*fine, edges[-1]])
    r, wr = panels(radii, t, w)
    a, wa = panels(edges, t, w)
    u = np.sqrt(c11) * np.outer(r, np.cos(a))
    # cos(a - angle) without cancellation at the line itself is not needed inside open panels.
    v = np.sqrt(c22) * np.outer(r, np.cos(a - angle))
    return (wr * r * np.exp(-0.5 * r * r)) @ (f(u) * g(v)) @ wa / (2 * np.pi)


def panels(edges, t, w):
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    return (centre[:, None] + half[:, None] * t).ravel(), (half[:, None] * w).ravel()


def second_moment(f, c):
    step = min(0.2, 0.1 / np.sqrt(c))
    x = step * np.arange(-int(9 / step), int(9 / step) + 1)
    return (step * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi) * f(np.sqrt(c) * x) ** 2).sum()


def covariances(seed, count, low, high):
    rng = np.random.default_rng(seed)
    for n in range(count):
        c11, c22 = 10 ** rng.uniform(low, high, 2)
        rho = EDGES[n % 12] if n % 12 < len(EDGES) else rng.uniform(-1, 1)
        yield c11, rho, c22


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("other", ["tanh", pytest.param("SiLU", marks=pytest.mark.slow)])
def test_smooth_factors_against_the_trapezoidal_rule(name, other):
    (F, f), (G, g) = SMOOTH[name], SMOOTH[other]
    claimed = PairTable(F, G, *sp.symbols("a b c")).error
    assert claimed < 2e-11
    for low, high in ((-12, -2), (-2, 1.5)):
        for c11, rho, c22 in covariances(len(name), 14, low, high):
            c12 = rho * np.sqrt(c11 * c22)
            value = pair_average(factor_table(F).values, factor_table(G).values, c11, c12, c22)
            size = np.sqrt(second_moment(f, c11) * second_moment(g, c22))
            assert abs(value - trapezoid(f, g, c11, c12, c22)) <= claimed * size


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_large_fields_against_the_trapezoidal_rule(name):
    F, f = SMOOTH[name]
    G, g = SMOOTH["tanh"]
    for c11, rho, c22 in covariances(1, 12, 1.5, 3.0):
        c12 = rho * np.sqrt(c11 * c22)
        value = pair_average(factor_table(F).values, factor_table(G).values, c11, c12, c22)
        size = np.sqrt(second_moment(f, c11) * second_moment(g, c22))
        assert abs(value - trapezoid(f, g, c11, c12, c22)) <= 1e-11 * size


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), list(product(KINKED, KINKED)))
def test_factors_with_kinks_in_polar_coordinates(name, other):
    (F, f), (G, g) = KINKED[name], KINKED[other]
    tables = factor_table(F).values, factor_table(G).values
    for c11, rho, c22 in covariances(len(name), 10, -3, 1.2):
        value = kinked_pair_average(*tables, c11, rho * np.sqrt(c11 * c22), c22)
        size = np.sqrt(second_moment(f, c11) * second_moment(g, c22))
        # A jump feels the angle itself, which the rounding of a covariance moves by 1e-8.
        edge = 1e-11 if abs(rho) < 1 - 1e-7 else 5e-8
        assert abs(value - wedges(f, g, c11, rho, c22)) <= edge * size


def test_many_kinks_are_split():
    """Slopes and squares of clipped errors: more kinks than one table resolves, in parts."""
    clip = sp.Min(sp.Rational(1, 2), sp.Max(-sp.Rational(1, 2), 1 - z))
    slopes = -sp.Heaviside(2 - z) * sp.Heaviside(z) + sp.Heaviside(-z) * sp.Heaviside(z + 2)
    cases = {
        slopes: lambda x: np.where(np.abs(x) < 2, -np.sign(x), 0.0),
        clip**2 - clip.subs(z, z + 2) ** 2: lambda x: (
            np.clip(1 - x, -0.5, 0.5) ** 2 - np.clip(-1 - x, -0.5, 0.5) ** 2
        ),
    }
    # Between the kinks both are smooth.
    edges = [-12.0, -2.0, -1.5, -0.5, 0.0, 0.5, 1.5, 2.0, 12.0]
    t, w = np.polynomial.legendre.leggauss(40)
    lines = [((a + b) / 2 + (b - a) / 2 * t, (b - a) / 2 * w) for a, b in pairwise(edges)]
    u, weight = (np.concatenate(part) for part in zip(*lines, strict=True))
    variance, cross = 1.7, 0.8
    rest = np.sqrt(1.0 - cross**2 / variance)
    y, own = np.polynomial.hermite_e.hermegauss(80)
    own = own / own.sum()
    inner = np.tanh(cross / variance * u[:, None] + rest * y) @ own
    density = np.exp(-(u**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    table = {"uu": variance, "uv": cross, "vu": cross, "vv": 1.0}
    for factor, function in cases.items():
        average = tabled_expectation(
            [factor, sp.tanh(z)], ["u", "v"], lambda a, b: sp.Float(table[a + b])
        )
        assert len(average.atoms(PairTable)) > 1
        wanted = np.sum(weight * density * function(u) * inner)
        assert abs(float(average.evalf()) - wanted) < 1e-11


@pytest.mark.parametrize(
    ("factor", "jump"),
    [
        (sp.exp(sp.sign(z)), 2 * np.sinh(1)),
        (1 / (1 + sp.exp(-2 * sp.sign(z))), np.tanh(1)),
        (sp.sign(z) ** 3, 2.0),
        (sp.tanh(z + sp.Heaviside(z)), np.tanh(1)),
    ],
)
def test_derivatives_hold_the_height_of_jumps(factor, jump):
    """Not the slope of what a sign stands in at zero, which the chain rule has."""
    assert abs(float(derivative(factor).coeff(sp.DiracDelta(z))) - jump) < 1e-12


@pytest.mark.slow
def test_sigmoids_against_arcsines():
    # The logistic law is a normal law of random width 2K (Andrews and Mallows 1974), K of
    # Kolmogorov's law, so that E tanh(u/2) tanh(v/2) is a mixture of arcsines.
    t, w = np.polynomial.legendre.leggauss(40)
    k, weight = panels(np.array([0.15, 0.4, 0.7, 1.0, 1.5, 2.2, 3.2, 4.6]), t, w)
    weight = weight * kolmogorov_density(k)
    assert weight.sum() == pytest.approx(1.0, abs=1e-13)
    table = factor_table(sp.tanh(z / 2)).values
    for c11, rho, c22 in covariances(3, 30, -4, 3):
        c12 = rho * np.sqrt(c11 * c22)
        sines = c12 / np.sqrt((c11 + 4 * k[:, None] ** 2) * (c22 + 4 * k**2))
        exact = 2 / np.pi * weight @ np.arcsin(sines) @ weight
        size = np.sqrt(second_moment(lambda x: np.tanh(x / 2), c11))
        size *= np.sqrt(second_moment(lambda x: np.tanh(x / 2), c22))
        assert abs(pair_average(table, table, c11, c12, c22) - exact) < 1e-11 * size


def kolmogorov_density(x):
    n = np.arange(1, 12)[:, None]
    small = np.minimum(x, 1.0)
    odd = ((2 * n - 1) * np.pi) ** 2
    one = np.sqrt(2 * np.pi) * (
        (odd / (4 * small**4) - 1 / small**2) * np.exp(-odd / (8 * small**2))
    )
    large = np.maximum(x, 1.0)
    two = 8 * large * (-1.0) ** (n + 1) * n**2 * np.exp(-2 * n**2 * large**2)
    return np.where(x < 1.0, one.sum(axis=0), two.sum(axis=0))


def test_vanishing_fields_are_exact():
    sigmoid, tanh = factor_table(SMOOTH["sigmoid"][0]).values, factor_table(sp.tanh(z)).values
    assert pair_average(sigmoid, sigmoid, 0.0, 0.0, 0.0) == pytest.approx(0.25, rel=1e-15)
    assert pair_average(tanh, tanh, 0.0, 0.0, 1.0) == 0.0
    tiny = pair_average(tanh, tanh, 1e-20, 0.5e-20, 1e-20)
    assert tiny == pytest.approx(0.5e-20, rel=1e-12)
    mean = field_average(sigmoid, 0.3, 0.0)
    assert mean == pytest.approx(1 / (1 + np.exp(-0.3)), rel=1e-14)


def test_nothing_outside_the_domain_is_a_number():
    tanh = factor_table(sp.tanh(z)).values
    outside = [(1100.0, 0.0, 1.0), (1.0, 0.0, 1100.0), (1.0, 1.1, 1.0), (-1.0, 0.0, 1.0)]
    outside += [(np.nan, 0.0, 1.0), (1.0, np.nan, 1.0), (0.0, 0.1, 1.0), (np.inf, 0.0, 1.0)]
    for point in outside:
        assert np.isnan(pair_average(tanh, tanh, *point)), point
    assert np.isnan(field_average(tanh, 0.0, -1.0))
    assert np.isnan(field_average(tanh, 1e4, 1.0))


def test_one_field_and_means():
    F = sp.log(1 + sp.exp(z))
    table = factor_table(F).values
    x = np.linspace(-11, 11, 4001)
    w = np.exp(-0.5 * x * x) * (x[1] - x[0]) / np.sqrt(2 * np.pi)
    for mean, variance in ((0.0, 1.0), (2.0, 0.3), (-3.0, 4.0), (0.0, 1e-6), (0.1, 1e-10)):
        exact = w @ np.logaddexp(0, mean + np.sqrt(variance) * x)
        assert field_average(table, mean, variance) == pytest.approx(exact, rel=1e-12)
        assert float(FieldTable(F, sp.Float(mean), sp.Float(variance))) == pytest.approx(
            exact, rel=1e-12
        )


def test_derivatives_in_the_covariances_are_those_of_the_average():
    # Price's identity, with the Dirac factor of the second derivative conditioned upon.
    F, G = sp.tanh(sp.Max(z, 0)), sp.tanh(z)
    names = sp.symbols("C11 C12 C22")
    average = tabled_expectation([F, G], ["u", "v"], lambda x, y: dict(
        zip(("uu", "uv", "vv"), names, strict=True))["".join(sorted(x + y))])  # fmt: skip
    point = dict(zip(names, (1.3, 0.7, 0.9), strict=True))
    for name in names:
        step = 1e-4
        up, down = ({**point, name: point[name] + s * step} for s in (1, -1))
        slope = (float(average.subs(up)) - float(average.subs(down))) / (2 * step)
        assert float(average.diff(name).subs(point)) == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (sp.exp(z**2 / 4), "square integrable"),
        (1 / z, "no finite value at 0"),
        (sp.tanh(sp.Symbol("beta") * z), "substitute a number for beta"),
        (sp.tanh(z) * sp.sqrt(z), "not real"),
    ],
)
def test_factors_that_no_table_holds_are_refused(factor, reason):
    with pytest.raises(NotClosed, match=reason):
        tables_of(factor)


def tables_of(factor):
    average = tabled_expectation([factor, z], ["u", "v"], lambda x, y: sp.Symbol("C" + x + y))
    return [factor_table(f) for f in average.factors]


def test_three_fields_are_refused():
    with pytest.raises(NotClosed, match="one and two fields"):
        tabled_expectation([sp.tanh(z)] * 3, ["u", "v", "w"], lambda x, y: sp.Symbol("C"))


@pytest.mark.parametrize(
    ("factor", "parity"),
    [
        (sp.tanh(z), -1),
        (1 / (1 + sp.exp(-z)) - sp.S.Half, -1),
        (sp.Abs(sp.tanh(z)), 1),
        (sp.Max(sp.tanh(z - 20), 0), 0),
        (sp.Piecewise((sp.tanh(z), (z > 10) & (z < 11)), (0, True)), 0),
    ],
)
def test_parity_is_not_guessed_from_where_a_factor_vanishes(factor, parity):
    assert FactorFunction(factor).parity == parity


def test_damaged_and_missing_tables_are_made_again(monkeypatch):
    from dmft.emit import cache

    F = sp.tanh(z) / 3
    table = factor_table(F)
    path = cache_directory() / f"table_{table.key}.npz"
    for damage in (lambda: path.write_bytes(path.read_bytes()[:-200] + bytes(200)), path.unlink):
        damage()
        factor_table.cache_clear()
        monkeypatch.setattr(cache, "_LOADED", {})
        again = factor_table(F)
        assert path.exists()
        np.testing.assert_array_equal(again.values, table.values)
        # Made once more, which takes seconds, it would be the same.
        monkeypatch.setattr(_Builder, "__init__", lambda builder, factor: None)
        monkeypatch.setattr(_Builder, "vector", lambda builder: table.values)


def test_symbols_of_an_average_are_those_of_the_covariances():
    a, b, c = sp.symbols("a b c")
    average = PairTable(sp.tanh(z), z**3, a, b, c)
    assert average.free_symbols == {a, b, c}
    assert average.subs(b, 2 * a).free_symbols == {a, c}
    assert tabled.table_averages(1 + average**2) == [average]
    value = float(average.subs({a: 1.0, b: 0.5, c: 2.0}))
    exact = direct_pair(sp.tanh(z), z**3, 1.0, 0.5, 2.0)
    assert value == pytest.approx(exact, rel=1e-14)


def test_dirac_parts_weigh_by_the_slope_of_their_argument():
    factor = z**2 * sp.DiracDelta(3 * z - sp.Rational(3, 2)) + z * sp.DiracDelta(2 - z / 2) + z
    regular, spikes = tabled.without_dirac(factor)
    assert regular == z
    assert sorted(spikes) == [(sp.Rational(1, 2), sp.Rational(1, 12)), (4, 8)]


PLAIN = (sp.tanh(z), sp.Max(0, z))
BENT = (sp.tanh(z) + z**2 / 2, sp.Max(0, z) + sp.Abs(z - 1) / 3)


@pytest.mark.parametrize(
    ("factors", "c11"),
    [
        (PLAIN, 1.3),
        pytest.param(BENT, 1.3, marks=pytest.mark.slow),
        pytest.param(BENT, 0.002, marks=pytest.mark.slow),
    ],
)
def test_kinked_factors_of_nearly_parallel_fields_against_sums(factors, c11):
    """The smoothed factor has a layer of the width of what is left of its field."""
    F, G = factors
    c22, rho = 0.8, -0.99999
    cross = rho * np.sqrt(c11 * c22)
    u, du = np.linspace(-9.0, 9.0, 6001, retstep=True)
    xi, dxi = np.linspace(-7.0, 7.0, 71, retstep=True)
    density = np.exp(-0.5 * (u[:, None] ** 2 + xi**2)) * du * dxi / (2.0 * np.pi)
    v = np.sqrt(c22) * (rho * u[:, None] + np.sqrt(1.0 - rho**2) * xi)
    f, g = (sp.lambdify(z, e, "numpy") for e in (F, G))
    wanted = float(np.sum(density * f(np.sqrt(c11) * u)[:, None] * g(v)))
    tables = (factor_table(e).values for e in (F, G))
    assert kinked_pair_average(*tables, c11, cross, c22) == pytest.approx(wanted, abs=2e-7)


def test_logarithms_and_roots_are_resolved_at_their_zeros():
    """The NumPy reference: log|z| has mean -(gamma + log 2)/2 and variance pi^2/8; E|z|^a."""
    logarithm = sp.log(sp.Abs(z))
    mean, square = -(np.euler_gamma + np.log(2)) / 2, 1.5
    want = np.pi**2 / 8 + (mean + np.log(square)) ** 2
    assert abs(direct_average([logarithm**2], [0.0, square**2]) - want) < 1e-12
    for power in (sp.Rational(2, 3), sp.Rational(-2, 5)):
        moment = 2 ** (power / 2) * sp.gamma((1 + power) / 2) / sp.sqrt(sp.pi)
        found = direct_average([sp.Abs(z) ** power], [0.0, 1.0])
        assert abs(found - float(moment)) < 1e-10
    # E log|u| log|v| = mean^2 + asin(rho)^2/2 for unit variances.
    pair = direct_average([logarithm, logarithm], [1.0, 0.6, 1.0])
    assert abs(pair - mean**2 - np.arcsin(0.6) ** 2 / 2) < 1e-9
    near = sp.log(sp.Abs(z) + sp.Rational(1, 100))
    x = np.linspace(0.0, 9.0, 2_000_001)[:-1] + 2.25e-6
    exact = 2 * np.sum(np.log(x + 0.01) * np.exp(-(x**2) / 2)) * 4.5e-6 / np.sqrt(2 * np.pi)
    assert abs(direct_average([near], [0.0, 1.0]) - exact) < 1e-9
