"""Entries of the table where other tests do not reach them: moments in one piece, symbols, shifts.

Moments are judged by Stein's identity field by field (`Gaussian.expect`, another road) and by
samples; shifted kinks under means by formulas of one normal variable.
"""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf as scipy_erf
from scipy.special import ndtr

from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import FourSigns, SignsMoment
from dmft.gaussian.closed.pair import CorrelationAngle, CorrelationRoot
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import to_signs
from dmft.gaussian.expectation import Gaussian
from dmft.model import FIELD as z

A = np.random.default_rng(11).standard_normal((6, 6))
COV = A @ A.T
SAMPLES = A @ np.random.default_rng(12).standard_normal((6, 100_000))
CASES = [
    (1, (1,)), (1, (3,)), (1, (2, 1)), (2, (2,)), (2, (1, 1)), (2, (2, 2)), (2, (3, 1)),
    (2, (1, 2, 1)), (3, (1,)), (3, (2, 1)), (4, (2,)), (4, (1, 1)),
]  # fmt: skip


def upper(C):
    return [C[i][j] for i in range(len(C)) for j in range(i, len(C))]


@pytest.mark.cases(4)
@pytest.mark.parametrize(("signs", "powers"), CASES)
def test_moments_of_signs_in_one_piece(signs, powers):
    n = signs + len(powers)
    C = COV[:n, :n]
    piece = SignsMoment(signs, len(powers), *powers, *map(sp.Float, upper(C.tolist())))
    fields = sp.symbols(f"x1:{n + 1}", real=True)
    factors = [sp.sign(x) for x in fields[:signs]]
    factors += [x**m for x, m in zip(fields[signs:], powers, strict=True)]
    value = float(piece.formula())
    assert value == pytest.approx(float(Gaussian(fields, C).expect(sp.Mul(*factors))), rel=1e-11)
    rows = SAMPLES[:n]
    product = np.sign(rows[:signs]).prod(axis=0)
    product *= (rows[signs:] ** np.array(powers)[:, None]).prod(axis=0)
    assert abs(value - product.mean()) < 5 * product.std() / np.sqrt(product.size)


def whole(factors, C):
    """The value of a product that stays in one piece, at numbers."""
    n = len(factors)
    entries = {(i, j): sp.Symbol(f"C{i}{j}", real=True) for i in range(n) for j in range(i, n)}
    value = product_expectation(
        factors, range(n), lambda a, b: entries[min(a, b), max(a, b)], whole=True
    )
    assert value.has(SignsMoment)
    return float(value.subs({e: C[i, j] for (i, j), e in entries.items()}).evalf())


def test_an_error_function_is_a_sign_with_noise():
    for factors, numeric in (
        ([sp.sign(z), sp.sign(z), sp.erf(2 * z), z], lambda a, b, c, d: scipy_erf(2 * c) * d),
        ([sp.sign(z), sp.sign(z), z**2, z**2 + 1], lambda a, b, c, d: c**2 * (d**2 + 1)),
    ):
        a, b, c, d = SAMPLES[:4]
        product = np.sign(a) * np.sign(b) * numeric(a, b, c, d)
        value = whole(factors, COV)
        assert abs(value - product.mean()) < 5 * product.std() / np.sqrt(product.size)
        fields = sp.symbols("x1:5", real=True)
        expr = sp.Mul(*[f.xreplace({z: x}) for f, x in zip(factors, fields, strict=True)])
        exact = Gaussian(fields, COV[:4, :4]).expect(expr)
        assert value == pytest.approx(float(exact), rel=1e-12)


def test_five_signs_close_beside_an_odd_power_only():
    a, b, c, d, e, f = SAMPLES
    product = np.sign(a) * np.sign(b) * np.sign(c) * np.sign(d) * np.sign(e) * f
    value = whole([sp.sign(z)] * 5 + [z], COV)
    assert abs(value - product.mean()) < 5 * product.std() / np.sqrt(product.size)
    with pytest.raises(NotClosed, match="6 sign functions"):
        whole([sp.sign(z)] * 6 + [z**2], np.eye(7))
    zero = product_expectation(
        [sp.sign(z)] * 3 + [z**2], range(4), lambda i, j: sp.Symbol(f"C{i}{j}"), whole=True
    )
    assert zero == 0


def test_symbolic_fields_that_are_opposite():
    q, r, m = sp.symbols("q r m", positive=True)
    assert CorrelationRoot(q, q, -q) == CorrelationRoot(q, q, q) == 0
    assert CorrelationAngle(q, q, -q) == -CorrelationAngle(q, q, q) == -sp.pi / 2
    rest = 2 / sp.pi * CorrelationAngle(r, r, m)
    assert FourSigns(q, -q, 0, 0, q, 0, 0, r, m, r) == -rest
    assert FourSigns(q, q, 0, 0, q, 0, 0, r, m, r) == rest


@pytest.mark.parametrize("t", [-0.8, 0.5])
def test_shifted_kinks_under_means(t):
    q, r, c, m, n = 1.3, 0.9, 0.4, 0.7, -0.3
    x, y = sp.symbols("x y", real=True)
    law = Gaussian([x, y], [[q, c], [c, r]], [m, n])
    s = (m - t) / np.sqrt(q)
    phi, cdf = np.exp(-s * s / 2) / np.sqrt(2 * np.pi), ndtr(s)
    ramp = (m - t) * cdf + np.sqrt(q) * phi
    assert float(law.expect(sp.Max(0, x - t))) == pytest.approx(ramp, rel=1e-13)
    # y = n + (c/q) (x - m) + noise, and E[(x - m) f(x)] = q E f'(x).
    assert float(law.expect(sp.Max(0, x - t) * y)) == pytest.approx(n * ramp + c * cdf, rel=1e-13)
    step = n * cdf + c * phi / np.sqrt(q)
    assert float(law.expect(sp.Heaviside(x - t) * y)) == pytest.approx(step, rel=1e-13)


def test_shifted_dirac_and_maximum_by_hand():
    x, y = sp.symbols("x y", real=True)
    law = Gaussian([x, y], [[1, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]])
    density = float(sp.exp(-sp.Rational(1, 8)) / sp.sqrt(2 * sp.pi))
    # delta(2x - 1) fixes x = 1/2 and halves the density; then E[y] = 1/4.
    assert float(law.expect(sp.DiracDelta(2 * x - 1) * y)) == pytest.approx(density / 8, rel=1e-14)
    # x - y - 1 is normal with mean -1 and variance 1.
    above = float(sp.exp(-sp.S.Half) / sp.sqrt(2 * sp.pi)) - ndtr(-1.0)
    assert float(law.expect(sp.Max(x, 1 + y))) == pytest.approx(1 + above, rel=1e-14)


def test_products_of_polynomials_of_one_field():
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    value = product_expectation(
        [z**2 + z, (z - 2) ** 3, sp.erf(z)], ["u", "u", "u"], lambda *_: sp.Integer(1)
    )
    truth = weights @ ((nodes**2 + nodes) * (nodes - 2) ** 3 * scipy_erf(nodes))
    assert float(value) == pytest.approx(truth, rel=1e-10)


def test_dirac_factors_away_from_the_mean():
    q, r, c, m, n = 1.3, 0.9, 0.4, 0.7, -0.3
    x, y = sp.symbols("x y", real=True)
    law = Gaussian([x, y], [[q, c], [c, r]], [m, n])
    density = np.exp(-((0.5 - m) ** 2) / (2 * q)) / np.sqrt(2 * np.pi * q)
    for sign in (1, -1):
        value = law.expect(sp.DiracDelta(sign * (2 * x - 1)) * y)
        expected = density / 2 * (n + c / q * (0.5 - m))
        assert float(value) == pytest.approx(expected, rel=1e-13)


def test_polynomials_that_share_a_field_multiply():
    q = sp.Symbol("q", positive=True)
    value = product_expectation([z**2, z**3, sp.sign(z)], ["a"] * 3, lambda i, j: q)
    assert sp.simplify(value - 8 * sp.sqrt(2 / sp.pi) * q ** sp.Rational(5, 2)) == 0


def test_values_of_fields_without_variance():
    x, y = sp.symbols("x y", real=True)
    law = Gaussian([x, y], [[0, 0], [0, 1]], [sp.Rational(-3, 10), 1])
    half = sp.Rational(1, 2)
    rest = float(law.expect(sp.erf(y)))
    assert float(law.expect(sp.sign(x + half) * sp.erf(y))) == pytest.approx(rest, rel=1e-13)
    value = law.expect(sp.erf(2 * x + half) * sp.erf(y))
    assert float(value) == pytest.approx(scipy_erf(-0.1) * rest, rel=1e-13)


def test_sets_of_a_line():
    x = sp.Symbol("x", real=True)
    m = 0.25  # the two sides of the law differ
    law = Gaussian([x], [[1]], [m])
    outside = ndtr(-1 - m) + ndtr(m - 2)
    for condition, expected in (
        (sp.Or(x < -1, x > 2), outside),
        (sp.And(x > -1, x < 2), 1 - outside),
    ):
        value = law.expect(sp.Piecewise((1, condition), (0, True)))
        assert float(value) == pytest.approx(expected, rel=1e-13)
    # SymPy turns a negation around when it rebuilds the expression.
    negated = sp.Piecewise((1, sp.Not(x > 1, evaluate=False)), (0, True))
    assert to_signs(negated, [x]) == (1 - sp.sign(x - 1)) / 2
    for quadratic in (x**2 - 3 * x + 2, x**2 - sp.Rational(31, 10) * x + sp.Rational(22, 10)):
        inner, outer = sorted(map(float, sp.roots(quadratic, x)))
        value = law.expect(sp.sign(quadratic))
        assert float(value) == pytest.approx(1 - 2 * (ndtr(outer - m) - ndtr(inner - m)), rel=1e-13)
