"""`Gaussian`: what users write, what they get, and what is refused."""

import numpy as np
import pytest
import sympy as sp

from dmft.errors import BadParameter, InvalidCovariance, NotClosed, ShapeMismatch
from dmft.gaussian.closed.bivariate import BivariateNormalCDF
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian

x, y, w, a, b = sp.symbols("x y w a b", real=True)
q, m, rho = sp.symbols("q m rho", positive=True)
LAW = Gaussian([x, y], cov=[[q, m], [m, rho]])


def sigma(u):
    return sp.erf(u / sp.sqrt(2))


def test_arcsine_law_is_literally_the_formula_of_the_textbook():
    value = LAW.expect(sigma(x) * sigma(y))
    assert value == 2 / sp.pi * sp.asin(m / sp.sqrt((1 + q) * (1 + rho)))


def test_exact_numbers_stay_exact():
    law = Gaussian([x, y], [[1, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]])
    assert law.expect(sigma(x) * sigma(x)) == sp.Rational(1, 3)
    assert law.expect(sigma(x) * sigma(y)) == 2 / sp.pi * sp.asin(sp.Rational(1, 4))
    assert law.expect(hermite(3, x) * hermite(3, y)) == sp.Rational(6, 8)


def test_expectation_is_linear_and_coefficients_pass_through():
    f, g = x**2 * sigma(y) * y, sp.exp(-(x**2)) * y**2
    value = LAW.expect(a * f + sp.sqrt(b) * g + b)
    assert sp.expand(value - a * LAW.expect(f) - sp.sqrt(b) * LAW.expect(g) - b) == 0
    assert LAW.expect(sp.Integer(3)) == 3
    assert LAW.expect(0.5) == 0.5


def test_a_coefficient_that_is_called_like_the_internal_field():
    z = sp.Symbol("z", real=True)
    assert LAW.expect(z**2 * x * y) == z**2 * m
    assert LAW.expect(sp.erf(z) * x**2) == sp.erf(z) * q
    assert LAW.expect((x + z) ** 2 * y**2) == sp.expand(q * rho + 2 * m**2 + z**2 * rho)
    assert LAW.expect(sigma(x + z)) == sp.erf(z / (sp.sqrt(2) * sp.sqrt(1 + q)))
    assert Gaussian([z, x], [[q, m], [m, rho]]).expect(z**2 * x**2) == q * rho + 2 * m**2


def test_powers_and_products_are_expanded_only_where_fields_mix():
    assert sp.expand(LAW.expect((x + a * y) ** 2 * y**2)) == sp.expand(
        q * rho + 2 * m**2 + 6 * a * m * rho + 3 * a**2 * rho**2
    )


def test_functions_of_linear_combinations_against_two_dimensional_quadrature():
    cov, mean = np.array([[0.8, 0.3], [0.3, 0.6]]), np.array([0.2, -0.4])
    law = Gaussian([x, y], cov, mean)
    cases = [
        sp.erf(x - 2 * y + sp.Rational(1, 3)) * sp.erf(y),
        sp.erf((x + y) / 2) * x * y**2,
        sp.diff(sp.erf(x + y), x, y) * sp.erf(x),
        sp.exp(x * y - x**2 - y**2 + x / 2) * y,
        sp.exp(x - y),
        sp.erfc(x) * x,
        (sp.erf(x) + y) ** 2,
    ]
    # The trapezoidal rule is exponentially accurate for functions without kinks.
    points = np.linspace(-9, 9, 181)
    normal = np.stack(np.meshgrid(points, points))
    weight = np.exp(-np.sum(normal**2, axis=0) / 2) * 0.1**2 / (2 * np.pi)
    u, v = np.tensordot(np.linalg.cholesky(cov), normal, 1) + mean[:, None, None]
    for case in cases:
        truth = np.sum(weight * sp.lambdify([x, y], case, ["scipy", "numpy"])(u, v))
        assert float(law.expect(case)) == pytest.approx(truth, abs=1e-12), case


def test_error_function_with_nonzero_mean_is_elementary():
    law = Gaussian([x], [[q]], mean=[m])
    assert law.expect(sigma(x)) == sp.erf(m / (sp.sqrt(2) * sp.sqrt(1 + q)))
    assert sp.expand(law.expect(x**3)) == m**3 + 3 * m * q


def test_singular_and_zero_covariances_are_valid():
    law = Gaussian([x, y, w], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert law.expect(sigma(x) * sigma(y)) == law.expect(sigma(x) ** 2) == sp.Rational(1, 3)
    assert law.expect(w**2 + sigma(w)) == 0


@pytest.mark.parametrize("scale", [1e8, 1e12, 1e16, 1e20])
def test_huge_numeric_covariances_give_no_nan(scale):
    law = Gaussian([x, y], scale * np.array([[1.0, 1.0], [1.0, 1.0]]))
    value = law.expect(sigma(x) * sigma(y))
    assert value.is_real
    assert float(value) == pytest.approx(1 - 2 / np.pi * np.sqrt(2 / scale), abs=2e-8)


def test_rounding_of_huge_parallel_fields_does_not_leave_the_arcsine_domain():
    a = np.random.default_rng(0).standard_normal((50, 2)) * 1e9
    for pair in a:
        value = Gaussian([x, y], np.outer(pair, pair)).expect(sigma(x) * sigma(y))
        assert float(value) == pytest.approx(np.sign(pair.prod()), abs=1e-6)


def test_more_than_two_error_functions_are_refused_with_the_ways_out():
    with pytest.raises(NotClosed, match=r"product of 6 error functions.*Ways out"):
        LAW.expect(sp.erf(x) ** 3 * sp.erf(y) ** 3)
    assert LAW.expect(sp.erf(x) ** 2 * sp.erf(y)) == 0


@pytest.mark.parametrize(
    ("expr", "named"),
    [
        (sp.tanh(x), r"tanh\("),
        (x * sp.sqrt(sp.Abs(y)), r"sqrt\("),
        (sp.erf(x**2), r"erf\(x\*\*2\)"),
        (sp.erf(x * y), r"erf\(x\*y\)"),
        (1 / (1 + x**2), r"1\)"),
        (sp.sqrt(x + y), r"sqrt\(x \+ y\)"),
        (sp.exp(x**4), r"exp\(x\*\*4\)"),
        (sp.exp(x * y), r"exp\(x\*y\)"),
        (x ** sp.Rational(1, 2), r"sqrt\(x\)"),
    ],
)
def test_open_expectations_name_the_sub_expression(expr, named):
    with pytest.raises(NotClosed, match=named):
        LAW.expect(2 + y**2 + expr)


def test_a_gaussian_factor_that_outgrows_the_law_is_refused():
    law = Gaussian([x], [[1]])
    assert law.expect(sp.exp(x**2 / 4)) == sp.sqrt(2)
    with pytest.raises(NotClosed, match="grows faster"):
        law.expect(sp.exp(x**2 / 2))


def test_covariance_refusals_name_the_pair_or_the_eigenvalue():
    with pytest.raises(InvalidCovariance, match=r"cov\[0,1\] = 0\.5 but cov\[1,0\] = 0\.4"):
        Gaussian([x, y], [[1, 0.5], [0.4, 1]])
    with pytest.raises(InvalidCovariance, match=r"smallest eigenvalue -1"):
        Gaussian([x, y], [[1, 2], [2, 1]])
    with pytest.raises(InvalidCovariance, match=r"cov\[0,1\] = m but cov\[1,0\] = q"):
        Gaussian([x, y], [[1, m], [q, 1]])
    with pytest.raises(InvalidCovariance, match="smallest eigenvalue"):
        Gaussian([x, y, w], [[1, 2, m], [2, 1, q], [m, q, rho]])
    with pytest.raises(InvalidCovariance, match="not real and finite"):
        Gaussian([x], [[float("nan")]])
    with pytest.raises(InvalidCovariance, match="not real and finite"):
        Gaussian([x], [[sp.I]])


def test_shape_refusals():
    for cov in ([[1, 0]], [1, 0], [[1]], [[1, 0], [0]], np.eye(3)):
        with pytest.raises(ShapeMismatch, match=r"expected (shape )?\(2, 2\)"):
            Gaussian([x, y], cov)
    with pytest.raises(ShapeMismatch, match="mean"):
        Gaussian([x, y], np.eye(2), mean=[1])


def test_other_refusals():
    with pytest.raises(BadParameter, match="distinct"):
        Gaussian([x, x], np.eye(2))
    with pytest.raises(BadParameter, match="symbols"):
        Gaussian(["x"], [[1]])
    with pytest.raises(BadParameter, match="neither a number"):
        Gaussian([x], [["q"]])
    with pytest.raises(BadParameter, match="one of the fields"):
        Gaussian([x], [[x]])
    with pytest.raises(BadParameter, match="must be a SymPy expression"):
        LAW.expect("x**2")
    for degree in (-1, 1.5, a):
        with pytest.raises(BadParameter):
            hermite(degree, x)


def test_law_displays_in_a_notebook():
    assert r"\mathcal{N}" in LAW._repr_latex_()


def test_bivariate_normal_distribution_function():
    h, k, r = sp.symbols("h k r", real=True)
    phi2 = BivariateNormalCDF(h, k, r)
    point = {h: 0.3, k: -0.7, r: 0.6}
    for v in (h, k, r):
        step = sp.Float("1e-8", 40)
        exact = {s: sp.Float(str(n), 40) for s, n in point.items()}
        up, down = ({**exact, v: exact[v] + e} for e in (step, -step))
        slope = (phi2.subs(up).evalf(35) - phi2.subs(down).evalf(35)) / (2 * step)
        assert abs(slope - sp.diff(phi2, v).subs(exact).evalf(35)) < 1e-14
    cdf = {v: float((1 + sp.erf(v / sp.sqrt(2))) / 2) for v in (0.3, 0.7, -0.7)}
    for corner, other, limit in (
        (1 - 1e-13, -0.7, cdf[-0.7]),
        (1, -0.7, cdf[-0.7]),
        (-1, 0.7, cdf[0.3] + cdf[0.7] - 1),
        (-1, -0.7, 0.0),
    ):
        value = float(BivariateNormalCDF(sp.Float(0.3), sp.Float(other), sp.Float(corner)))
        assert value == pytest.approx(limit, abs=1e-13)
    assert sp.latex(phi2) == r"\Phi_{2}\left(h, k; r\right)"


def test_refusal_names_the_sub_expression_in_the_users_symbols():
    x, y = sp.symbols("x y", real=True)
    law = Gaussian([x, y], [[2, 1], [1, 2]])
    with pytest.raises(NotClosed, match=r"of tanh\(x\): "):
        law.expect(sp.tanh(x) * y)
    with pytest.raises(NotClosed, match=r"erf\(x\).*erf\(x \+ y\).*product of 6"):
        law.expect(sp.erf(x) ** 3 * sp.erf(y) * sp.erf(x + y) * sp.erf(x - y))
