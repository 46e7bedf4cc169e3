"""Signs, ReLU and waves: closed forms against quadrature split at kinks, sampling and laws.

The witnesses share nothing with the engine: Gauss-Legendre panels over independent normals (split
at every kink of the innermost one), high-precision mpmath integrals, and samples.
"""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf as scipy_erf

from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import CorrelationAngle, CorrelationRoot, elementary
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import to_signs
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.derivative import derivative
from dmft.gaussian.expectation import Gaussian
from dmft.model import FIELD

x, y, w, v = X = sp.symbols("x y w v", real=True)
z = sp.Symbol("z", real=True)
t = sp.Symbol("t", real=True)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)

# Numpy counterparts, written apart from SymPy.
NUMERIC = {
    "sign": (sp.sign, np.sign),
    "theta": (lambda u: sp.Heaviside(u), lambda u: np.heaviside(u, 0.5)),
    "abs": (sp.Abs, np.abs),
    "relu": (lambda u: sp.Max(0, u), lambda u: np.maximum(0, u)),
    "leaky": (lambda u: sp.Max(u / 10, u), lambda u: np.maximum(u / 10, u)),
    "pieces": (lambda u: sp.Piecewise((0, u < 0), (u, True)), lambda u: np.where(u < 0, 0, u)),
    "relu2": (lambda u: sp.Max(0, u) ** 2, lambda u: np.maximum(0, u) ** 2),
    "relu3": (lambda u: sp.Max(0, u) ** 3, lambda u: np.maximum(0, u) ** 3),
    "erf": (lambda u: sp.erf(u / sp.sqrt(2)), lambda u: scipy_erf(u / np.sqrt(2))),
    "cdf": (lambda u: sp.erfc(-u) / 2, lambda u: (1 + scipy_erf(u)) / 2),
    "cubic": (lambda u: hermite(3, u), lambda u: u**3 - 3 * u),
    "sin": (sp.sin, np.sin),
    "cos": (sp.cos, np.cos),
    "cosh": (lambda u: sp.cosh(u / 2), lambda u: np.cosh(u / 2)),
    "bump": (lambda u: sp.exp(-(u**2)), lambda u: np.exp(-(u**2))),
}
SIGNED = ("sign", "theta", "abs", "relu", "leaky", "pieces", "relu2", "relu3")


def panels(breaks, end=9.0):
    """Nodes and weights against the normal density, split at the breaks."""
    inside = sorted({-end, end, -3.0, 3.0, *(b for b in breaks if abs(b) < end)})
    points, weights = [], []
    for low, high in pairwise(inside):
        u = 0.5 * (high + low) + 0.5 * (high - low) * NODES
        points.append(u)
        weights.append(0.5 * (high - low) * WEIGHTS * np.exp(-u * u / 2) / np.sqrt(2 * np.pi))
    return np.concatenate(points), np.concatenate(weights)


def quadrature(functions, cov, mean=None):
    """E[prod f_i(x_i)] of two fields, x = m + A u; every kink sits at x_i = 0."""
    A, m = factor(np.asarray(cov)), np.zeros(2) if mean is None else np.asarray(mean)
    total = 0.0
    first = [-m[0] / A[0, 0]] if A[0, 0] > 0 else []
    # At the corner, where both kinks meet, the inner integral turns within the width of the second.
    corner, width = (
        (-m[1] / A[1, 0], A[1, 1] / abs(A[1, 0])) if abs(A[1, 0]) > 1e-9 else (0.0, np.inf)
    )
    if width < 0.3:
        first += [corner - 6 * width, corner, corner + 6 * width]
    for u, weight in zip(*panels(first), strict=True):
        one = m[0] + A[0, 0] * u
        shift = m[1] + A[1, 0] * u
        inner = [-shift / A[1, 1]] if A[1, 1] > 0 else []
        second, weights = panels(inner)
        values = functions[1](shift + A[1, 1] * second)
        total += weight * functions[0](one) * float(weights @ values)
    return total


def factor(cov):
    """Lower triangular factor of a 2 x 2 covariance, singular ones included."""
    if cov[0, 0] == 0:
        return np.diag(np.sqrt(np.diag(cov)))
    a = np.sqrt(cov[0, 0])
    rest = max(cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0], 0.0)
    return np.array([[a, 0.0], [cov[0, 1] / a, np.sqrt(rest)]])


def closed(names, cov, mean=None):
    fields = X[: len(names)]
    expr = sp.Mul(*[NUMERIC[n][0](f) for n, f in zip(names, fields, strict=True)])
    return float(Gaussian(fields, cov, mean).expect(expr))


PAIRS = [(a, b) for i, a in enumerate(NUMERIC) for b in list(NUMERIC)[i:]]


@pytest.mark.cases(12)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pairs_of_families_equal_split_quadrature(pair):
    waves = {"sin", "cos"} & set(pair)
    cov = [[0.9, 0.35], [0.35, 1.2]]
    truth = quadrature([NUMERIC[n][1] for n in pair], cov)
    assert closed(pair, cov) == pytest.approx(truth, rel=1e-11, abs=1e-12)
    if not waves:
        truth = quadrature([NUMERIC[n][1] for n in pair], cov, [0.3, -0.6])
        assert closed(pair, cov, [0.3, -0.6]) == pytest.approx(truth, rel=1e-11, abs=1e-12)


def covariances():
    rows = st.lists(st.floats(-2, 2), min_size=2, max_size=2)

    def make(first, second, scale):
        a = np.array([first, second]) * 10.0**scale
        return a @ a.T

    return st.builds(make, rows, rows, st.integers(-2, 1))


@settings(max_examples=16, deadline=None)
@given(
    covariances().filter(lambda c: min(np.diag(c)) > 1e-8),
    st.sampled_from(SIGNED),
    st.sampled_from([*SIGNED, "erf", "cubic"]),
)
def test_random_covariances_singular_and_scaled(cov, first, second):
    value = closed((first, second), cov)
    functions = [NUMERIC[n][1] for n in (first, second)]
    squares = [
        quadrature([lambda u, f=f: f(u) ** 2, np.ones_like], np.diag([c, 1.0]))
        for f, c in zip(functions, np.diag(cov), strict=True)
    ]
    scale = np.sqrt(np.prod(squares))
    assert np.isfinite(value)
    assert abs(value) <= scale * (1 + 1e-9)  # Cauchy-Schwarz
    rho = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
    near = abs(abs(rho) - 1) < 1e-6
    assert value == pytest.approx(quadrature(functions, cov), abs=(1e-6 if near else 1e-10) * scale)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("names", [("relu", "relu"), ("sign", "abs"), ("relu2", "theta")])
def test_parallel_fields_are_exact(direction, names):
    q = sp.Rational(3, 7)
    law = Gaussian([x, y], [[q, 2 * direction * q], [2 * direction * q, 4 * q]])
    f, g = (NUMERIC[n][0] for n in names)
    single = Gaussian([x], [[q]])
    assert sp.simplify(law.expect(f(x) * g(y)) - single.expect(f(x) * g(2 * direction * x))) == 0


def test_one_part_in_1e12_from_parallel():
    for gap in (0.0, 1e-16, 1e-14, 1e-12, 1e-9):
        rho = 1 - gap
        law = Gaussian([x, y], [[1.0, rho], [rho, 1.0]])
        mp_rho = mpmath.mpf(rho)
        relu = (mpmath.sqrt(1 - mp_rho**2) + mp_rho * (mpmath.pi - mpmath.acos(mp_rho))) / (
            2 * mpmath.pi
        )
        assert float(law.expect(sp.Max(0, x) * sp.Max(0, y))) == pytest.approx(
            float(relu), abs=1e-12
        )
        theta = mpmath.mpf(1) / 4 + mpmath.asin(mp_rho) / (2 * mpmath.pi)
        value = float(law.expect(sp.Heaviside(x) * sp.Heaviside(y)))
        assert value == pytest.approx(float(theta), abs=2e-8)


def test_three_and_four_fields_against_samples():
    A = np.array([[0.9, 0, 0, 0], [0.3, 0.8, 0, 0], [-0.4, 0.2, 0.7, 0], [0.1, -0.5, 0.3, 0.6]])
    cov = A @ A.T
    half = np.random.default_rng(5).standard_normal((4, 100_000))
    samples = A @ np.hstack([half, -half])
    for names in (
        ("theta", "theta", "relu"),
        ("theta", "relu", "relu"),
        ("relu", "relu", "relu"),
        ("abs", "sign", "cubic"),
        ("relu", "erf", "cubic"),
        ("sign", "sign", "cubic", "bump"),
        ("bump", "bump", "erf", "relu"),
        ("theta", "cubic", "cos", "cubic"),
    ):
        values = np.prod([NUMERIC[n][1](s) for n, s in zip(names, samples, strict=False)], axis=0)
        paired = 0.5 * np.add(*np.split(values, 2))
        error = paired.std() / np.sqrt(paired.size)
        size = len(names)
        assert abs(closed(names, cov[:size, :size]) - paired.mean()) <= 5 * error, names


# The table: each entry against a second witness of another kind (mpmath at 25 digits, and laws).


def test_arcsine_law_to_twenty_digits():
    q, r, m = sp.Rational(9, 10), sp.Rational(6, 5), sp.Rational(-3, 10)
    value = Gaussian([x, y], [[q, m], [m, r]]).expect(sp.sign(x) * sp.sign(y)).evalf(25)
    with mpmath.workdps(30):
        slope = mpmath.mpf(-1) / 3 / mpmath.sqrt(mpmath.mpf(6) / 5 - mpmath.mpf(1) / 10)
        scale = mpmath.sqrt(mpmath.mpf(9) / 10)
        given_x = mpmath.quad(
            lambda u: 2 * mpmath.erf(scale * u * slope / mpmath.sqrt(2)) * mpmath.npdf(u),
            [0, 2, 6, 16],
        )
        assert abs(value - sp.Float(given_x, 28)) < 1e-20


def test_price_identity_fixes_the_pair_of_signs():
    q, r, m = sp.symbols("q r m", positive=True)
    law = Gaussian([x, y], [[q, m], [m, r]])
    pair = law.expect(sp.sign(x) * sp.sign(y))
    # d/dm E[sign sign] = 4 E[delta delta], the density at the origin, and E = 0 at m = 0.
    density = 1 / (2 * sp.pi * sp.sqrt(q * r - m**2))
    assert sp.simplify(law.expect(sp.DiracDelta(x) * sp.DiracDelta(y)) - density) == 0
    point = {q: sp.Rational(3, 2), r: sp.Rational(4, 5), m: sp.Rational(1, 3)}
    assert abs((pair.diff(m) - 4 * density).subs(point).evalf(20)) < 1e-18
    assert pair.subs(m, 0) == 0


def test_smooth_limit_of_the_erf_is_the_sign():
    cov = [[sp.Rational(9, 10), sp.Rational(3, 10)], [sp.Rational(3, 10), sp.Rational(6, 5)]]
    law = Gaussian([x, y], cov)
    for other in (sp.sign(y), sp.erf(y), sp.Max(0, y), y**3):
        limit = law.expect(sp.erf(10**8 * x) * other)
        assert float(law.expect(sp.sign(x) * other)) == pytest.approx(float(limit), rel=1e-12)


def test_orthants_of_three_fields_are_sheppard():
    cov = [[0.9, 0.3, 0.25], [0.3, 1.2, -0.4], [0.25, -0.4, 0.7]]
    law = Gaussian([x, y, w], cov)
    value = law.expect(sp.Heaviside(x) * sp.Heaviside(y) * sp.Heaviside(w))
    c = np.array(cov)
    rho = c / np.sqrt(np.outer(np.diag(c), np.diag(c)))
    angles = sum(np.arcsin(rho[i, j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert float(value) == pytest.approx(1 / 8 + angles / (4 * np.pi), rel=1e-14)


def test_arc_cosine_kernels_of_cho_and_saul():
    theta = sp.Rational(7, 10)
    c, s = sp.cos(theta), sp.sin(theta)
    law = Gaussian([x, y], [[1, c], [c, 1]])
    angular = {
        0: sp.pi - theta,
        1: s + (sp.pi - theta) * c,
        2: 3 * s * c + (sp.pi - theta) * (1 + 2 * c**2),
    }
    for n, value in angular.items():
        f, g = (sp.Heaviside(u) * u**n for u in (x, y))
        assert float(law.expect(f * g)) == pytest.approx(float(value / (2 * sp.pi)), rel=1e-13)


# Laws of the calculus.


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["sign", "relu", "abs", "relu2"]), st.sampled_from(["relu", "sin", "erf"]))
def test_stein_holds_through_kinks(first, second):
    f, g = NUMERIC[first][0], NUMERIC[second][0]
    law = Gaussian([x, y, w], [[0.9, 0.3, 0.25], [0.3, 1.2, -0.4], [0.25, -0.4, 0.7]])
    left = law.expect(w * f(x) * g(y))
    slope_f, slope_g = (derivative(h(z)) for h in (f, g))
    right = law.cov[0, 2] * law.expect(slope_f.subs(z, x) * g(y))
    right += law.cov[1, 2] * law.expect(f(x) * slope_g.subs(z, y))
    assert float(left) == pytest.approx(float(right), rel=1e-12, abs=1e-13)


def test_relu_is_homogeneous_and_the_spellings_agree():
    law = Gaussian([x, y], [[2, 1], [1, 3]])
    values = {
        sp.simplify(law.expect(f * sp.Max(0, y)))
        for f in (
            sp.Max(0, x),
            x * sp.Heaviside(x),
            (x + sp.Abs(x)) / 2,
            -sp.Min(0, -x),
            sp.Piecewise((0, x < 0), (x, True)),
            sp.Piecewise((x, x > 0), (0, x <= 0)),
            sp.Max(0, 3 * x) / 3,
        )
    }
    assert len(values) == 1


def test_kinks_of_combinations_and_of_polynomials():
    law = Gaussian([x, y], [[1, sp.Rational(1, 3)], [sp.Rational(1, 3), 2]])
    gap = Gaussian([w], [[1 + 2 - sp.Rational(2, 3)]])
    assert sp.simplify(law.expect(sp.Abs(x - y)) - gap.expect(sp.Abs(w))) == 0
    assert sp.simplify(law.expect(sp.Max(x, y)) - gap.expect(sp.Abs(w)) / 2) == 0
    inside = law.expect(sp.Heaviside(1 - x**2))
    assert float(inside) == pytest.approx(scipy_erf(1 / np.sqrt(2)), rel=1e-13)
    band = sp.Piecewise((1, (x > -1) & (x < 2)), (0, True))
    exact = 0.5 * (scipy_erf(2 / np.sqrt(2)) + scipy_erf(1 / np.sqrt(2)))
    assert float(law.expect(band)) == pytest.approx(exact, rel=1e-13)


def test_waves_are_characteristic_functions():
    q, m, r = sp.symbols("q m r", positive=True)
    law = Gaussian([x, y], [[q, m], [m, r]], [t, 0])
    assert sp.simplify(law.expect(sp.cos(x)) - sp.exp(-q / 2) * sp.cos(t)) == 0
    assert sp.simplify(law.expect(sp.sin(x)) - sp.exp(-q / 2) * sp.sin(t)) == 0
    pair = law.expect(sp.cos(x + y) - sp.cos(x) * sp.cos(y) + sp.sin(x) * sp.sin(y))
    assert sp.simplify(sp.expand(pair, power_exp=True)) == 0
    assert sp.simplify(law.expect(sp.cosh(y) - sp.exp(y))) == 0


def test_derivatives_keep_their_dirac_factors():
    bent = sp.Piecewise((z / 10, z < 0), (z, True))
    assert derivative(bent, 2) == sp.Rational(9, 10) * sp.DiracDelta(z)
    assert derivative(z * sp.Heaviside(z), 2) == sp.DiracDelta(z)
    assert to_signs(sp.Abs(z), [z]) == z * sp.sign(z)
    # A jump of height g(1) = 1 at z = 1: d/dz [z^2 theta(z - 1)] = 2 z theta + delta(z - 1).
    jump = derivative(sp.Piecewise((0, z < 1), (z**2, True)))
    value = Gaussian([z], [[1]]).expect(jump)
    density = np.exp(-0.5) / np.sqrt(2 * np.pi)
    assert float(value) == pytest.approx(3 * density, rel=1e-14)


def test_pair_functions_differentiate_and_refuse():
    a, b, c = sp.symbols("a b c", positive=True)
    for f in (CorrelationAngle(a, b, c), CorrelationRoot(a, b, c)):
        for s in (a, b, c):
            gap = elementary(f.diff(s)) - elementary(f).diff(s)
            assert abs(gap.subs({a: 2, b: 3, c: sp.Rational(1, 2)}).evalf(20)) < 1e-18
    with pytest.raises(ValueError, match="cannot have covariance"):
        CorrelationRoot(1, 1, 2)


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (sp.sign(x - 1) * sp.sign(y) * sp.sign(x + y), "product of 3 sign"),
        (sp.DiracDelta(x) ** 2, "belongs to no closed family"),
        (sp.cos(x**2), "not linear"),
        (sp.Max(0, x * y - 1), "not linear in the fields"),
        (sp.sign(x) * sp.sign(y) * sp.sin(x + y), "complex arguments"),
        (sp.sqrt(sp.Abs(x)), "not a positive integer power"),
        (sp.tan(x), "belongs to no closed family"),
    ],
)
def test_refusals_name_the_reason(expr, reason):
    with pytest.raises(NotClosed, match=reason):
        Gaussian([x, y], [[1, 0.5], [0.5, 2]]).expect(expr)


def test_dirac_on_a_field_without_variance_is_refused():
    with pytest.raises(NotClosed, match="variance 0"):
        Gaussian([x], [[0]]).expect(sp.DiracDelta(x))


# Four signs.


def test_four_independent_pairs_and_parallel_fields():
    half = sp.Rational(1, 2)
    blocks = sp.diag(sp.Matrix([[1, half], [half, 1]]), sp.Matrix([[2, -1], [-1, 2]]))
    product = sp.Mul(*map(sp.sign, X))
    pair = sp.asin(half) * 2 / sp.pi
    assert float(Gaussian(X, blocks).expect(product)) == pytest.approx(
        -(float(pair) ** 2), rel=1e-13
    )
    same = sp.Matrix([[1, 2, half, 0], [2, 4, 1, 0], [half, 1, 1, half], [0, 0, half, 1]])
    assert sp.simplify(Gaussian(X, same).expect(product) - pair) == 0


def test_odd_numbers_of_parallel_signs_are_one_sign():
    # Three labels, one direction: the product of the signs is one sign, not a constant.
    law = Gaussian([x, y, w], [[1, 2, -1], [2, 4, -2], [-1, -2, 1]])
    single = Gaussian([x], [[1]])
    for weight in (x, x**3, sp.erf(x)):
        value = law.expect(weight * sp.sign(x) * sp.sign(y) * sp.sign(w))
        assert sp.simplify(value + single.expect(weight * sp.sign(x))) == 0
    shifted = law.expect(x * sp.sign(x - 1) * sp.sign(y - 2) * sp.sign(w + 1))
    assert sp.simplify(shifted + single.expect(x * sp.sign(x - 1))) == 0


@pytest.mark.cases("ReLU")
@pytest.mark.parametrize(
    "factors",
    [
        [sp.Heaviside(FIELD)] * 2 + [sp.Max(0, FIELD)] * 2,
        [sp.Heaviside(FIELD), sp.Max(FIELD / 5, FIELD), sp.Abs(FIELD), FIELD],
        [sp.sign(FIELD)] * 2 + [sp.Abs(FIELD), sp.Max(0, FIELD)],
    ],
    ids=["ReLU", "four kinds", "signs"],
)
def test_relu_products_of_four_fields_equal_the_symbolic_nodes(factors):
    A = np.array([[0.9, 0, 0, 0], [0.3, 0.8, 0, 0], [-0.4, 0.2, 0.7, 0], [0.1, -0.5, 0.3, 0.6]])
    cov = A @ A.T

    def named(i, j):
        return sp.Symbol(f"c{min(i, j)}{max(i, j)}", positive=True)

    values = {named(i, j): cov[i, j] for i in range(4) for j in range(4)}
    node = product_expectation(factors, [0, 1, 2, 3], named)
    numbers = Gaussian(X, cov).expect(
        sp.Mul(*[f.xreplace({FIELD: s}) for f, s in zip(factors, X, strict=True)])
    )
    assert float(elementary(node).subs(values).evalf()) == pytest.approx(float(numbers), rel=1e-12)


def test_four_erfs_are_four_noisy_signs():
    cov = [
        [0.9, 0.3, 0.25, -0.1],
        [0.3, 1.2, -0.4, 0.35],
        [0.25, -0.4, 0.7, 0.2],
        [-0.1, 0.35, 0.2, 1],
    ]
    value = float(Gaussian(X, cov).expect(sp.erf(x) * sp.erf(-y / 2) * sp.erf(w) * sp.sign(v)))
    samples = np.linalg.cholesky(np.array(cov)) @ np.random.default_rng(2).standard_normal(
        (4, 250_000)
    )
    a, b, c, d = samples
    product = scipy_erf(a) * scipy_erf(-b / 2) * scipy_erf(c) * np.sign(d)
    assert abs(value - product.mean()) < 5 * product.std() / 500
    s = sp.Symbol("s", real=True)
    scaled = Gaussian(X, cov).expect(sp.erf(x) * sp.erf(s * y) * sp.erf(w) * sp.sign(v))
    for slope in (sp.Rational(-1, 2), sp.Rational(1, 2)):
        side = -2 * float(slope)
        assert float(scaled.subs(s, slope)) == pytest.approx(side * value, abs=1e-14)


def test_signs_of_symbolic_parallel_fields_cancel_beside_a_third():
    q, r, m = sp.symbols("q r m", positive=True)
    law = Gaussian([x, y, w], [[q, -2 * q, m], [-2 * q, 4 * q, -2 * m], [m, -2 * m, r]], [0, 0, 1])
    value = law.expect(sp.sign(x) * sp.sign(y) * sp.erf(w))
    assert value == -law.expect(sp.erf(w))


def test_nearly_parallel_floats_neither_raise_nor_lose_digits():
    # Conditional variances of order 1e-11 magnify the rounding of the covariances.
    relu, theta, size = (lambda u: sp.Max(0, u)), sp.Heaviside, sp.Abs
    row = np.array([1.3, -0.7, 2.1])
    for gap in (1e-5, 1e-7, 1e-9, 1e-12):
        A = np.array([row, -row + gap * np.array([0.4, 1.0, -0.3]), [0.5, 1.2, -0.4], row])
        value = float(Gaussian(X, A @ A.T).expect(size(x) * relu(y) * theta(w) * relu(v)))
        assert abs(value) < 10 * gap  # x = v has the sign opposite to y but in a cone of this size
