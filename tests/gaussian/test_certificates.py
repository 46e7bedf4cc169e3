"""Certificates: against exact constants and other definitions, and refusals.

The certificates are the judge of the table of closed forms, so nothing here takes a number from
that table: constants of probability theory, SciPy's normal distribution functions, samples, and
the certificates' own routes against each other.
"""

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.stats import multivariate_normal

import dmft
from dmft.errors import BadParameter, InvalidCovariance, NotClosed, ShapeMismatch

pytestmark = pytest.mark.certify
flint = pytest.importorskip("flint", reason="python-flint is not installed (extra certify)")

R = sp.Rational
X = x, y, w, v = sp.symbols("x y w v", real=True)
# Symbols without assumptions are fields as well.
a, b = sp.symbols("a b")
RELU = sp.Max(0, x)
C4 = sp.Matrix(
    [[2, 1, R(1, 2), R(1, 3)], [1, 3, R(1, 4), R(-1, 5)],
     [R(1, 2), R(1, 4), 1, R(1, 7)], [R(1, 3), R(-1, 5), R(1, 7), 2]]
)  # fmt: skip
UNIT = dmft.Gaussian([x], [[1]])


def equicorrelated(n, rho):
    return sp.eye(n) * (1 - rho) + sp.ones(n) * rho


# Exact constants: moments, distribution functions, orthants of equal correlations 1/2.
CONSTANTS = {
    "relu": (RELU, UNIT, 1 / sp.sqrt(2 * sp.pi)),
    "log-normal": (sp.exp(x), dmft.Gaussian([x], [[2]], [R(1, 3)]), sp.exp(R(4, 3))),
    "characteristic function": (sp.cos(3 * x), dmft.Gaussian([x], [[R(1, 2)]]), sp.exp(R(-9, 4))),
    "shifted sign": (sp.sign(x - 1), UNIT, -sp.erf(1 / sp.sqrt(2))),
    "interval": (sp.sign(x**2 - 2), UNIT, 1 - 2 * sp.erf(1)),
    "sigmoid": (1 / (1 + sp.exp(-x)), UNIT, R(1, 2)),
    "triple": (
        sp.Heaviside(x) * sp.Heaviside(y) * sp.Heaviside(w),
        dmft.Gaussian([x, y, w], equicorrelated(3, R(1, 2))), R(1, 4),
    ),
    "quadruple": (
        sp.Heaviside(x) * sp.Heaviside(y) * sp.Heaviside(w) * sp.Heaviside(v),
        dmft.Gaussian(X, equicorrelated(4, R(1, 2))), R(1, 5),
    ),
    "maximum of three": (
        sp.Max(x, y, w), dmft.Gaussian([x, y, w], sp.eye(3)), R(3, 2) / sp.sqrt(sp.pi),
    ),
    "Isserlis": (x * y * w * v, dmft.Gaussian(X, C4), R(1, 7) + R(-1, 10) + R(1, 12)),
    "joint bump": (sp.exp(x * y / 4), dmft.Gaussian([x, y], sp.eye(2)), 4 / sp.sqrt(15)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_exact_constants_are_inside(name):
    expr, law, exact = CONSTANTS[name]
    proof = dmft.certify(expr, law)
    assert proof.contains(exact)
    assert proof.digits >= 15
    assert abs(float(exact) - proof.mid) <= proof.radius + math.ulp(proof.mid)
    # A wrong value is told apart: the ball is not merely wide.
    assert not proof.contains(exact * (1 + R(1, 10**13)))


SMOOTH = [
    sp.tanh(x),
    sp.log(1 + sp.exp(x)),
    x / (1 + sp.exp(-x)),
    sp.sqrt(1 + x**2),
    sp.atan(x) ** 2,
]


@pytest.mark.parametrize("f", SMOOTH, ids=str)
@pytest.mark.parametrize(("mean", "variance"), [(0, 1), (R(1, 3), R(7, 5)), (-2, R(1, 1000))])
def test_smooth_functions_of_one_field(f, mean, variance):
    proof = dmft.certify(f, dmft.Gaussian([x], [[variance]], [mean]), digits=20)
    function = sp.lambdify(x, f, "mpmath")
    with mpmath.workdps(30):
        m, s = mpmath.mpf(sp.N(mean, 30)), mpmath.sqrt(sp.N(variance, 30))
        panels = [mpmath.mpf(k) for k in range(-14, 15, 2)]
        truth = mpmath.quad(lambda u: function(m + s * u) * mpmath.npdf(u), panels)
        assert proof.contains(sp.Float(truth, 30), slack=1e-25)
    assert proof.digits >= 18


PAIRS = {
    "tanh relu": sp.tanh(x) * sp.Max(0, y),
    "tanh tanh": sp.tanh(x) * sp.tanh(y / 2),
    "cos abs": sp.cos(x) * sp.Abs(y),
    "erf bump": sp.erf(x - y / 2) * sp.exp(-(x**2)) * y,
    "switch": sp.Piecewise((x, x + y > 0), (y**2, True)),
    "cosh": sp.cosh(x / 2) * sp.sign(y - R(1, 3)),
    "gelu": x * (1 + sp.erf(x / sp.sqrt(2))) * sp.Max(-1, y),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_fields_against_quadrature(name):
    cov, mean = [[R(9, 10), R(7, 20)], [R(7, 20), R(6, 5)]], [R(1, 10), R(-1, 5)]
    proof = dmft.certify(PAIRS[name], dmft.Gaussian([x, y], cov, mean), digits=12)
    f = sp.lambdify((x, y), PAIRS[name].rewrite(sp.Piecewise), "scipy")
    # Trapezoidal sums in u, panels in v split at every switch of these integrands.
    u, du = np.linspace(-9, 9, 721, retstep=True)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total, root = 0.0, math.sqrt(1.2 - 0.35**2 / 0.9)
    for t in u:
        first = 0.1 + math.sqrt(0.9) * t
        center = -0.2 + 0.35 / 0.9 * (first - 0.1)
        kinks = [(k - center) / root for k in (0, -first, 1 / 3, -1)]
        edges = sorted({-9.0, -3.0, 3.0, 9.0, *(k for k in kinks if abs(k) < 9)})
        for low, high in pairwise(edges):
            s = 0.5 * (low + high) + 0.5 * (high - low) * nodes
            part = f(first, center + root * s) * np.exp(-(s**2 + t**2) / 2) / (2 * np.pi)
            total += du * 0.5 * (high - low) * float(weights @ part)
    assert proof.contains(total, slack=1e-6 if name == "switch" else 1e-10)
    assert proof.digits >= 11


@pytest.mark.parametrize("thresholds", [(0, 0, 0), (R(1, 3), 0, R(-1, 2)), (1, R(2, 3), R(1, 5))])
def test_three_signs_with_thresholds_are_distribution_functions(thresholds):
    expr = sp.Mul(*[sp.Heaviside(t - s) for s, t in zip((x, y, w), thresholds, strict=True)])
    law = dmft.Gaussian([x, y, w], C4[:3, :3])
    cov = np.array(C4[:3, :3].tolist(), dtype=float)
    truth = multivariate_normal(cov=cov, abseps=1e-9, releps=1e-9, maxpts=2_000_000, seed=1).cdf(
        [float(t) for t in thresholds]
    )
    proof = dmft.certify(expr, law)
    assert proof.contains(truth, slack=1e-7)
    assert proof.digits >= 15


FOUR = {
    "relu quadratic term": sp.Heaviside(x) * sp.Heaviside(y) * sp.Max(0, w) * sp.Max(0, v),
    "four relu": sp.Max(0, x) * sp.Max(0, y) * sp.Max(0, w) * sp.Max(0, v),
    "erf quadratic term": (
        sp.exp(-(x**2 + y**2) / 2) * sp.erf(w / sp.sqrt(2)) * sp.erf(v / sp.sqrt(2))
    ),
    "mixed": sp.sign(x) * sp.erf(y) * sp.Abs(w) * v,
}


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_four_fields_against_samples(name, rank):
    A = sp.Matrix([[1, 2, 0, 1], [0, 1, 1, -1], [1, -1, 1, 0], [2, 0, 1, 1]])[:, :rank] / 2
    proof = dmft.certify(FOUR[name], dmft.Gaussian(X, A * A.T), digits=12)
    rng = np.random.default_rng(0)
    fields = np.array(A.tolist(), dtype=float) @ rng.standard_normal((rank, 100_000))
    values = sp.lambdify(X, FOUR[name].rewrite(sp.Piecewise), "scipy")(*fields)
    error = values.std() / math.sqrt(values.size)
    assert proof.contains(values.mean(), slack=5 * error)
    assert proof.digits >= 11
    assert proof.radius < 1e-3 * error


def test_routes_agree():
    """Two fields by conditioning and by Stein and Plackett; Parseval and the nested integral."""
    from dmft.gaussian.certified.reduce import checked_law
    from dmft.gaussian.certified.routes import Reduction

    law = checked_law(
        [Fraction(1, 4), Fraction(-1, 3)],
        [[Fraction(9, 10), Fraction(7, 20)], [Fraction(7, 20), Fraction(6, 5)]],
    )
    families = [
        sp.sign,
        lambda t: sp.Max(0, t) ** 2,
        lambda t: sp.erf(t / sp.sqrt(2)),
        lambda t: sp.exp(-(t**2)) * sp.Abs(t - R(1, 2)),
        lambda t: t**2 * sp.sign(t + 1),
    ]
    with flint.ctx.workprec(160):
        for f in families:
            for g in families:
                parts = {x: f(x), y: g(y)}
                direct = Reduction(15)._pair(parts, [x, y], law)
                reduced = Reduction(15)._signed(parts, [x, y], law)
                assert direct.overlaps(reduced)
                assert abs(reduced).rad() < 1e-14
                assert abs(direct).rad() < 1e-14
        separable = Reduction(9).expectation(sp.tanh(x) * sp.tanh(y), [x, y], law)
        nested = Reduction(7)._nested(sp.tanh(x) * sp.tanh(y), [x, y], law)
        assert separable.overlaps(nested)
        assert nested.rad() < 1e-6


def test_hermite_coefficients():
    for n in range(8):
        assert dmft.certify_hermite(RELU, x, n).contains(_relu_coefficient(n))
    assert dmft.certify_hermite(sp.tanh(x), x, 2).contains(0)
    # Parseval: sum a_n^2 / n! stays below E tanh^2.
    squares = [
        float(dmft.certify_hermite(sp.tanh(x), x, n)) ** 2 / math.factorial(n) for n in range(12)
    ]
    assert sum(squares) < float(dmft.certify(sp.tanh(x) ** 2, UNIT)) < sum(squares) + 1e-3


def _relu_coefficient(n):
    if n < 2:
        return [1 / sp.sqrt(2 * sp.pi), R(1, 2)][n]
    return 0 if n % 2 else (-1) ** (n // 2 - 1) * sp.factorial2(n - 3) / sp.sqrt(2 * sp.pi)


def test_degenerate_laws_are_exact():
    singular = dmft.Gaussian([x, y], [[1, -2], [-2, 4]], [0, 1])
    assert dmft.certify(RELU * sp.Max(0, y), singular).contains(
        sp.Rational(1, 1) * dmft.certify(RELU * sp.Max(0, 1 - 2 * x), UNIT).mid, slack=1e-15
    )
    fixed = dmft.Gaussian([x, y], [[1, 0], [0, 0]], [0, R(3, 2)])
    assert dmft.certify(RELU * y, fixed).contains(R(3, 2) / sp.sqrt(2 * sp.pi))
    flat = dmft.Gaussian([x, y, w], sp.Matrix([1, 2, -1]) * sp.Matrix([[1, 2, -1]]))
    assert dmft.certify(sp.sign(x) * sp.sign(y) * sp.Abs(w), flat).contains(sp.sqrt(2 / sp.pi))


def test_risk_of_a_model():
    z = sp.Symbol("z", real=True)
    erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
    model = dmft.Model(erf, dmft.Committee(sp.Max(0, z), width=1))
    point = {"Q": [[1, R(1, 4)], [R(1, 4), R(3, 4)]], "M": [[R(1, 2)], [R(-1, 4)]], "P": [[1]]}
    proof = dmft.certify(dmft.population_risk(model), **point)
    numbers = {k: np.array(v, dtype=float) for k, v in point.items()}
    assert proof.contains(dmft.population_risk(model)(**numbers), slack=1e-15)
    square = dmft.Committee(z**2, width=1)
    assert dmft.certify(dmft.Model(square, square), Q=[[1]], M=[[0]]).contains(2)
    weighted = dmft.certify(dmft.Model(square, square), Q=[[1]], M=[[0]], readout=[2])
    assert weighted.contains(R(1, 2) * (4 * 3 + 3 - 4))


def test_record_and_values():
    q = sp.Symbol("q")
    law = dmft.Gaussian([a, b], [[1, q], [q, 1]])
    proof = dmft.certify(sp.sign(a) * sp.sign(b), law, values={q: 0.5}, digits=30)
    assert proof.contains(R(1, 3))
    assert proof.digits >= 30
    assert float(proof) == pytest.approx(1 / 3)
    assert proof.steps
    assert proof.seconds > 0
    assert str(proof).startswith("[0.333333333333333333333333333333")
    assert not proof.contains(0.334)
    assert proof.contains(0.334, slack=1e-3)


REFUSED = {
    "not integrable": (
        lambda: dmft.certify(sp.exp(x**2), UNIT), NotClosed, r"exp\(x\*\*2\) is integrable",
    ),
    "not integrable beside another field": (
        lambda: dmft.certify(sp.exp(x**2) * sp.tanh(y), dmft.Gaussian(X[:2], C4[:2, :2])),
        NotClosed, "integrable",
    ),
    "barely not": (lambda: dmft.certify(sp.exp(x**2 / 2), UNIT), NotClosed, "integrable"),
    "pole": (lambda: dmft.certify(1 / x, UNIT), NotClosed, "bound"),
    "unknown function": (lambda: dmft.certify(sp.gamma(x), UNIT), NotClosed, "gamma"),
    "irrational": (
        lambda: dmft.certify(x**2, dmft.Gaussian([x], [[sp.sqrt(2)]])),
        BadParameter, "not rational",
    ),
    "float singular by intention": (
        lambda: dmft.certify(x * y, dmft.Gaussian([x, y], [[0.7, 2.1], [2.1, 6.3]])),
        InvalidCovariance, "binary fraction",
    ),
    "no value": (lambda: dmft.certify(a * x, UNIT), BadParameter, "values"),
    "three smooth fields": (
        lambda: dmft.certify(
            sp.tanh(x) * sp.tanh(y) * sp.tanh(w), dmft.Gaussian([x, y, w], C4[:3, :3])
        ),
        NotClosed, "tanh",
    ),
    "four thresholds": (
        lambda: dmft.certify(sp.Mul(*[sp.sign(f - 1) for f in X]), dmft.Gaussian(X, C4)),
        NotClosed, "four signs",
    ),
    "digits": (lambda: dmft.certify(x, UNIT, digits=0), BadParameter, "digits"),
    "no law": (lambda: dmft.certify(x), BadParameter, "law"),
    "shape": (
        lambda: dmft.certify(dmft.Model(*[dmft.Committee(x**2, 1)] * 2), Q=[[1, 0]], M=[[0]]),
        ShapeMismatch, "Q",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        call()
