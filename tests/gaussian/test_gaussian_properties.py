"""Laws that every Gaussian expectation obeys, on covariances drawn as factors (also singular)."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian
from dmft.model import FIELD as z

X = sp.symbols("x1:5", real=True)
C = {(i, j): sp.Symbol(f"C{i}{j}") for i in range(4) for j in range(i, 4)}
SIGMA = sp.erf(z / sp.sqrt(2))
FUNCTIONS = [SIGMA, z * SIGMA, hermite(3, z), z**2, sp.diff(SIGMA, z), sp.erf(z / 3) + z]
ODD = [SIGMA, hermite(3, z), sp.erf(2 * z), z]
few = settings(max_examples=16, deadline=None, derandomize=True)


def cov(i, j):
    return C[min(i, j), max(i, j)]


@st.composite
def covariances(draw, size=4):
    """C = A A^T of rank 1 to `size`, scaled by 1e-3 to 1e6, or |rho| within 1e-12 of 1."""
    rank = draw(st.integers(1, size))
    A = draw(arrays(np.float64, (size, rank), elements=st.floats(-2, 2, width=32)))
    A = A * draw(st.sampled_from([0.03, 1.0, 1.0, 30.0, 1e3]))
    if draw(st.booleans()):
        side = draw(arrays(np.float64, (size, 1), elements=st.sampled_from([-1.0, 1.0])))
        A = side * A[:1] + 1e-6 * A
    return A @ A.T


def expect(factors, covariance, mean=None):
    """E[prod f_i(x_i)] as a float."""
    shift = None if mean is None else lambda i: sp.Float(mean[i])
    fields = range(len(factors))
    value = product_expectation(factors, fields, lambda i, j: sp.Float(covariance[i, j]), shift)
    return float(value)


def norm(f, variance):
    return (
        np.sqrt(expect([f * f], np.array([[variance]]))) if variance else abs(float(f.subs(z, 0)))
    )


@few
@given(st.integers(0, 6), st.integers(0, 6), st.floats(-1, 1))
def test_hermite_polynomials_are_orthogonal(m, n, rho):
    value = expect([hermite(m, z), hermite(n, z)], np.array([[1.0, rho], [rho, 1.0]]))
    wanted = factorial(n) * rho**n if m == n else 0.0
    assert value == pytest.approx(wanted, abs=1e-11 * np.sqrt(factorial(m) * factorial(n)))


@few
@given(covariances(3), st.lists(st.sampled_from(FUNCTIONS[:5]), min_size=3, max_size=3))
def test_relabelling_the_fields_changes_nothing(covariance, factors):
    wanted = expect(factors, covariance)
    size = np.prod([1 + np.sqrt(np.trace(covariance)) ** 3] * 3)
    for order in permutations(range(3)):
        value = expect([factors[i] for i in order], covariance[np.ix_(order, order)])
        assert value == pytest.approx(wanted, rel=1e-9, abs=1e-13 * size)


@few
@given(covariances(2), st.sampled_from(FUNCTIONS[:4]), st.sampled_from(FUNCTIONS[:4]))
def test_cauchy_schwarz(covariance, f, g):
    # The slack covers squares that are computed at perfect correlation.
    bound = norm(f, covariance[0, 0]) * norm(g, covariance[1, 1])
    assert abs(expect([f, g], covariance)) <= bound * (1 + 1e-10) + 1e-300


@few
@given(covariances(4), st.sampled_from([SIGMA, hermite(3, z), z * SIGMA, sp.diff(SIGMA, z)]))
def test_kernel_matrix_is_positive_semidefinite(covariance, f):
    pair = product_expectation([f, f], [0, 1], cov)
    evaluate = sp.lambdify([C[0, 0], C[0, 1], C[1, 1]], pair, "math")
    kernel = np.array(
        [
            [evaluate(covariance[i, i], covariance[i, j], covariance[j, j]) for j in range(4)]
            for i in range(4)
        ]
    )
    assert np.linalg.eigvalsh(kernel)[0] >= -1e-10 * np.trace(kernel) - 1e-300


@pytest.mark.cases(9)
@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("g", [SIGMA, sp.diff(SIGMA, z), hermite(2, z)])
def test_stein_identity(f, g):
    """E[x_1 f(x_2) g(x_3)] = C_12 E[f' g] + C_13 E[f g'], at an exact rational covariance."""
    left = product_expectation([z, f, g], [0, 1, 2], cov)
    right = cov(0, 1) * product_expectation([sp.diff(f, z), g], [1, 2], cov)
    right += cov(0, 2) * product_expectation([f, sp.diff(g, z)], [1, 2], cov)
    assert_equal_at_rational_points(left, right)


def assert_equal_at_rational_points(left, right):
    rng = np.random.default_rng(0)
    for _ in range(3):
        A = rng.integers(-3, 4, (4, 4))
        point = {C[i, j]: sp.Rational(int(v), 5) for (i, j), v in upper(A @ A.T).items()}
        a, b = (sp.N(side.subs(point), 30) for side in (left, right))
        assert abs(a - b) < sp.Float("1e-25") * (1 + abs(a))


def upper(matrix):
    return {(i, j): matrix[i, j] for i, j in C}


@pytest.mark.cases(6)
@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("g", [SIGMA, hermite(3, z), sp.diff(SIGMA, z)])
def test_price_theorem_symbolically(f, g):
    """dE/dC_12 = E[f' g'] and dE/dC_11 = E[f'' g]/2, by differentiating the closed form."""
    value = product_expectation([f, g], [0, 1], cov)
    cross = product_expectation([sp.diff(f, z), sp.diff(g, z)], [0, 1], cov)
    own = product_expectation([sp.diff(f, z, 2), g], [0, 1], cov) / 2
    assert_equal_at_rational_points(sp.diff(value, C[0, 1]), cross)
    assert_equal_at_rational_points(sp.diff(value, C[0, 0]), own)


def test_price_theorem_by_finite_differences_of_I4():
    factors = [sp.diff(SIGMA, z), sp.diff(SIGMA, z), SIGMA, SIGMA]
    A = np.random.default_rng(1).standard_normal((4, 4))
    covariance, step = A @ A.T, 1e-5
    for i, j in [(0, 1), (0, 2), (1, 3), (2, 3)]:
        shift = np.zeros((4, 4))
        shift[i, j] = shift[j, i] = step
        slope = (expect(factors, covariance + shift) - expect(factors, covariance - shift)) / step
        changed = [sp.diff(f, z) if k in (i, j) else f for k, f in enumerate(factors)]
        assert slope / 2 == pytest.approx(expect(changed, covariance), abs=1e-9)


@pytest.mark.parametrize("f", [SIGMA, hermite(2, z), hermite(3, z), z**2])
def test_I3_is_the_gradient_of_I2(f):
    """theory/one_pass A.1: I3 = 2 C_12 dI2/dC_11 + C_23 dI2/dC_13."""
    I2 = product_expectation([f, f], [0, 2], cov)
    I3 = product_expectation([sp.diff(f, z), z, f], [0, 1, 2], cov)
    gradient = 2 * cov(0, 1) * sp.diff(I2, C[0, 0]) + cov(1, 2) * sp.diff(I2, C[0, 2])
    assert_equal_at_rational_points(I3, gradient)


@few
@given(covariances(3), st.sampled_from(ODD), st.sampled_from(ODD))
def test_odd_functions_change_sign_with_their_field(covariance, f, g):
    mirrored = covariance * np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    for even in (z**2, sp.exp(-(z**2))):
        value, other = (expect([f, g, even], c) for c in (covariance, mirrored))
        assert other == pytest.approx(-value, rel=1e-12, abs=1e-300)
    assert expect([f, g, z], covariance) == 0


@few
@given(covariances(1), st.floats(-3, 3), st.sampled_from(FUNCTIONS), st.sampled_from(FUNCTIONS[:5]))
def test_a_rank_deficient_pair_reduces_to_one_field(variance, slope, f, g):
    """y = c x exactly: E[f(x) g(y)] = E[f(x) g(c x)]."""
    c = sp.Float(slope)
    pair = np.array([[1.0, slope], [slope, slope**2]]) * variance
    alone = expect([f * g.subs(z, c * z)], variance)
    assert expect([f, g], pair) == pytest.approx(alone, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("g", FUNCTIONS[:4])
def test_limits_of_independent_and_of_vanishing_fields(f, g):
    apart = expect([f, g], np.diag([0.7, 1.9]))
    alone = [expect([h], np.array([[v]])) for h, v in ((f, 0.7), (g, 1.9))]
    assert apart == pytest.approx(alone[0] * alone[1], rel=1e-14, abs=1e-300)
    at_zero = float((f * g).subs(z, 0))
    assert expect([f, g], np.zeros((2, 2))) == pytest.approx(at_zero, abs=1e-300)


@pytest.mark.cases(2)
@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("g", [SIGMA, hermite(2, z), sp.erf(z + sp.Rational(1, 3))])
def test_tower_property_over_a_latent_field(f, g):
    """E[f g] = E_w[E[f g | w]]: the inner expectation has a nonzero mean and a smaller variance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # exact to 1e-14
    A = np.array([[0.6, 0.5, 0.0], [-0.4, 0.3, 0.5]])
    rest = A[:, 1:] @ A[:, 1:].T
    inner = [expect([f, g], rest, A[:, 0] * w) for w in nodes]
    outer = weights @ np.array(inner) / weights.sum()
    assert outer == pytest.approx(expect([f, g], A @ A.T), abs=1e-11)
    shifted = weights @ [expect([f, g], rest, A[:, 0] * w + [0.3, -0.2]) for w in nodes]
    wanted = expect([f, g], A @ A.T, [0.3, -0.2])
    assert shifted / weights.sum() == pytest.approx(wanted, abs=1e-11)


@few
@given(covariances(3), st.sampled_from([0.5, -2.0, 3.0]))
def test_a_linear_combination_is_a_field(covariance, c):
    """E over u = x_1 + c x_2 of the law equals the expectation with u's own covariance."""
    law = Gaussian(X[:3], covariance)
    u = X[0] + c * X[1]
    T = np.array([[1, c, 0], [0, 0, 1]])
    value = float(law.expect(sp.erf(u) * sp.erf(X[2])))
    assert value == pytest.approx(expect([sp.erf(z)] * 2, T @ covariance @ T.T), abs=1e-12)
