"""Small functions of the Gaussian calculus at arguments whose value is known by hand."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.averages.neighbour import erf_mixtures, of_neighbour
from dmft.gaussian.branch_factors import branches, canonical, decays, has_branches, primitive
from dmft.gaussian.branch_family import (
    BranchField,
    BranchGiven,
    BranchPair,
    BranchSlope,
    BranchSlopes,
)
from dmft.gaussian.closed import pair
from dmft.gaussian.closed.bivariate import BivariateNormalCDF, TwoSigns, erfcx
from dmft.gaussian.closed.factor import split_product
from dmft.gaussian.closed.guard_digits import combined, real_value, without_differences
from dmft.gaussian.closed.orthant import FourSigns, PairOfSignsMoment, SignsMoment
from dmft.gaussian.closed.product import ordered_steps
from dmft.gaussian.closed.switch import linear_in_signs, merged, to_signs, without_fixed
from dmft.gaussian.closed.wick import diagrams, monomial_sum, power_in_hermite
from dmft.gaussian.derivative import derivative, in_pieces
from dmft.gaussian.exponents.coefficients import indices, polynomial_coefficients, sign_flips
from dmft.gaussian.exponents.leap_proofs import Label, Symmetries, deciding_moment
from dmft.gaussian.exponents.leaps import Y, as_combination
from dmft.gaussian.exponents.leaps import canonical as canonical_directions
from dmft.gaussian.exponents.record import coefficient_name
from dmft.gaussian.nodes.grid import half_range
from dmft.gaussian.nodes.kinks import break_points, projections, switches
from dmft.gaussian.nodes.reduction import summands, with_explicit_poles
from dmft.gaussian.nodes.rules import (
    Law,
    exact_dimensions,
    exact_rule,
    halved_rule,
    normal_rule,
    tensor_rule,
)
from dmft.gaussian.tables.factor_function import FactorFunction, is_smooth
from dmft.gaussian.tables.series_strips import series_strips
from dmft.gaussian.tables.tabled import pieces
from dmft.gaussian.tables.tokens import TokenAverage, field_series, split_parameters
from dmft.model import FIELD as z
from dmft.workflow.solving import rounding

x, y = sp.symbols("x y", real=True)
a, b, c, q, m, r = sp.symbols("a b c q m r", positive=True)
HALF, ONE, ZERO = sp.S.Half, sp.S.One, sp.S.Zero
ELU = sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True))
STEP = sp.Piecewise((0, z < 0), (sp.exp(-z), True))
LEAKY = sp.Piecewise((z / 10, z < 0), (z, True))
ROOT, NODE = pair.CorrelationRoot(a, b, c), pair.InverseCorrelationRoot(a, b, c)
TINY = sp.Rational(1, 10**9)

EQUAL = {
    "Wick diagrams": (diagrams((2, 1, 1)), (((1, 1, 0), 2),)),
    "Hermite of z^3": (power_in_hermite(3, 0, None), ((1, (0, 1), 3), (3, (0, 0), 1))),
    "monomials": (
        monomial_sum([a, b, a], {(1, 1, 0): 2, (0, 1, 1): 1, (0,) * 3: 3}),
        3 * a * b + 3,
    ),
    "two jumps": (
        ordered_steps((("x", sp.oo, ONE), ("x", sp.oo, ZERO))),
        [(1, ()), (-1, (("x", sp.oo, 1),)), (1, (("x", sp.oo, 0),))],
    ),
    "product": (
        split_product(a * x**2 * sp.erf(x + 2 * y), [x, y]),
        (a, [z**2, sp.erf(z)], [((0, 1),), ((0, 1), (1, 2))]),
    ),
    "Phi_2(0, 0)": (BivariateNormalCDF(0, 0, HALF), sp.Rational(1, 3)),
    "two signs": (TwoSigns(0, 0, HALF), sp.Rational(1, 3)),
    "root": (pair.CorrelationRoot(a, a, a), 0),
    "inverse root": (pair.InverseCorrelationRoot(2, 2, -2), 0),
    "half tangent": (pair.HalfTangent(4, 4, 0), 1),
    "angle": (pair.CorrelationAngle(1, 4, -2), -sp.pi / 2),
    "slope of angle": (pair.CorrelationAngle(a, b, c).diff(c), 1 / ROOT),
    "correlation": (pair.Correlation(2, 8, 3), sp.Rational(3, 4)),
    "ratio": (pair.RootRatio(3, 4, 4, 0, 1), sp.Rational(3, 4)),
    "ratio 0/0": (pair.RootRatio(0, 2, 2, 2, 1), 0),
    "given": (pair.CovarianceGiven(3, 1, 2, 1), sp.Rational(5, 2)),
    "ratios": (
        pair.with_root_ratios(sp.erf(q / ROOT) / ROOT),
        sp.erf(pair.RootRatio(q, a, b, c, 1)) / ROOT,
    ),
    "parallel": (pair.finite_for_parallel(q * ROOT / (b - c**2 / a)), a * q * ROOT * NODE**2),
    "as correlation": (
        pair.as_correlation(c / sp.sqrt(a) / sp.sqrt(1 + b)),
        pair.Correlation(a, b + 1, c),
    ),
    "moment": (
        PairOfSignsMoment(a, b, 0, 0, c, c, 0, 1).formula(),
        2 * c**2 / (sp.pi * sp.sqrt(a) * sp.sqrt(b)),
    ),
    "E x sign u": (SignsMoment(1, 1, 1, q, m, r).formula(), sp.sqrt(2 / (sp.pi * q)) * m),
    "merged": (
        merged(sp.sign(x - 1) * sp.sign(x) * sp.sign(x + 1), [x]),
        sp.sign(x + 1) + sp.sign(x - 1) - sp.sign(x),
    ),
    "fixed": (
        without_fixed(
            sp.Piecewise((1, x >= y), (0, True)) + sp.sign(x - y) ** 2,
            [x, y],
            lambda u: ZERO if u == x - y else None,
        ),
        1,
    ),
    "linear in signs": (
        linear_in_signs(2 / (1 + sp.exp(-2 * sp.sign(x))) - 1),
        sp.tanh(1) * sp.sign(x),
    ),
    "pieces as signs": (
        to_signs(sp.Piecewise((0, x < 1), (x, True)), [x]),
        x * (HALF - sp.sign(1 - x) / 2),
    ),
    "tanh": (
        without_differences(sp.exp(c - a) / 2 - sp.exp(-a - c) / 2),
        (sp.exp(-a - c) / 2 + sp.exp(c - a) / 2) * sp.tanh(c),
    ),
    "combined": (combined(sp.exp(-a) * sp.exp(b) / 2 + 1), sp.exp(b - a) / 2 + 1),
    "cosine": (
        real_value(sp.exp(sp.I * m - a) / 2 + sp.exp(-a - sp.I * m) / 2),
        sp.exp(-a) * sp.cos(m),
    ),
    "kink": (derivative(LEAKY, 2), 9 * sp.DiracDelta(z) / 10),
    "jump": (derivative(sp.tanh(sp.sign(z))), 2 * sp.tanh(1) * sp.DiracDelta(z)),
    "in pieces": (in_pieces(sp.Heaviside(z) * sp.exp(-z)), STEP),
    "primitive": (primitive(branches(-sp.Heaviside(z) * sp.exp(-z)), {ZERO: ONE}), STEP),
    "canonical": (
        canonical(2 * sp.Max(0, z) * sp.exp(-z)),
        (2, sp.Piecewise((0, z < 0), (z * sp.exp(-z), True))),
    ),
    "branches": ([has_branches(f) for f in (STEP, sp.Max(0, z), sp.exp(z))], [True, False, False]),
    "decay": ([decays(f) for f in (STEP, ELU + 1)], [True, False]),
    "indices": (indices(2, 2), [(2, 0), (1, 1), (0, 2)]),
    "flips": (
        sign_flips(sp.tanh(x) * y**2, [x, y]),
        [((1, -1), 1), ((-1, 1), -1), ((-1, -1), -1)],
    ),
    "noisy moment": (Label(x**2, (x,), sp.Integer(3)).moment(3, x**2 - 1), 108),
    "deciding": (deciding_moment(Label(x**3 - 3 * x, (x,))), ((1,), 324, 3)),
    "direction": (as_combination(np.array([0.6, -0.8]), (x, y)), y - 3 * x / 4),
    "name": (coefficient_name((2, 1), Y**2, [x], [y, a]), "E[T(y) phi(x) He_2(y) He_1(a)]"),
    "switches": (switches(sp.Max(0, x - 1) + sp.sign(x * y), (x, y)), [x, y, 1 - x]),
    "projections": (
        projections([x + y - 1, x - y, x * y], [x, y]),
        [[2 * x - 1, x - 1, x], [x + y - 1, x - y, x * y]],
    ),
    "summands": (
        summands((sp.tanh(x) - y) ** 2, [x, y]),
        [y**2, -2 * y * sp.tanh(x), sp.tanh(x) ** 2],
    ),
    "poles": (with_explicit_poles(sp.tan(x)), sp.sin(x) / sp.cos(x)),
    "dimensions": ((exact_dimensions(9), exact_dimensions(40)), (7, 3)),
    "smooth": (
        [is_smooth(f) for f in (1 / (1 + sp.exp(-z)), sp.tanh(sp.Max(z, 0)))],
        [True, False],
    ),
    "steps": (
        pieces(sp.Heaviside(z) * sp.Heaviside(2 - z) + sp.sign(z - 3)),
        [-1, sp.Heaviside(z), -sp.Heaviside(z - 2), 2 * sp.Heaviside(z - 3)],
    ),
    "series of a field": (field_series(z**2, m, 2), (m**2 + 1, 2 * m, 2)),
    "Hermite of x^2 y": (polynomial_coefficients(x**2 * y, (x, y)), {(2, 1): 2, (0, 1): 1}),
    "parameters": (
        sorted(split_parameters((1 - m) * sp.exp(x) + m, [x]), key=str),
        [(1 - m, sp.exp(x)), (m, 1)],
    ),
}
# Numbers of SciPy quadrature of the definitions, or known exactly.
CLOSE = {
    "two small signs": (TwoSigns(TINY, TINY, 2 * TINY**2), 6 * TINY**2 / sp.pi),
    "four signs": (FourSigns(2, 1, 1, 1, 2, 1, 1, 2, 1, 2), 0.2),
    "erfcx": (erfcx(sp.Integer(1000)), 0.0005641893015),
    "field": (BranchField(ELU, ZERO, sp.Integer(2000)), 17.350157),
    "given": (BranchGiven(STEP, ONE, HALF, ONE, ZERO), 0.28115980),
    "pair": (BranchPair(ELU, ELU, *[sp.Integer(600)] * 3), 300.47562),
    "slope": (BranchSlope(STEP, STEP, ONE, HALF, ONE), 0.030048354),
    "slope of wide fields": (BranchSlope(STEP, STEP, 1 / TINY, ZERO, 1 / TINY), 1.5915494e-19),
    "slopes": (BranchSlopes(z * STEP, STEP, ONE, ZERO, ONE), 0.017062572),
}


@pytest.mark.parametrize("name", EQUAL)
def test_values_known_by_hand(name):
    found, wanted = EQUAL[name]
    assert found == wanted


@pytest.mark.parametrize("name", CLOSE)
def test_numbers_of_the_definitions(name):
    found, wanted = CLOSE[name]
    assert float(found.evalf(12)) == pytest.approx(float(wanted), rel=1e-7)


def test_symmetries_silence_orders():
    found = Symmetries.of(sp.sign(x) * y**2, [x, y], every=True)
    assert [found.silences(n, 0) for n in ((1, 0), (2, 0), (0, 1), (0, 2))] == [0, 1, 1, 0]


def test_directions_name_coordinates():
    turned = canonical_directions(np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]]))
    np.testing.assert_allclose(turned, np.eye(3)[:2], atol=1e-15)


def test_break_points_of_a_parabola():
    assert np.allclose(
        [float(t) for t in break_points(sp.Abs(x**2 - 2), x, 10)], [-(2**0.5), 2**0.5]
    )


def test_rules_integrate_what_they_are_for():
    u, v = exact_rule(2, 6).normal
    assert exact_rule(2, 6).weight @ (u**4 * v**2) == pytest.approx(3.0, rel=1e-12)
    t, w = half_range(12)
    assert [w @ t, w @ t**9] == pytest.approx([np.sqrt(2 / np.pi), 384 * np.sqrt(2 / np.pi)])
    u, v = halved_rule(2, 40).normal
    assert halved_rule(2, 40).weight @ (np.abs(u) * np.exp(u * v / 4)) == pytest.approx(
        0.8510768649
    )


def test_rules_far_out():
    far = normal_rule(1, 256).with_laws([Law(np.array([6.0]), np.eye(1))])
    assert far.weight @ (far.normal[0] > 6.0) == pytest.approx(9.866e-10, rel=0.05)  # 1 - Phi(6)

    def sixth(rule):  # E[u^6 1(u + v > 0)] = 7.5
        u, v = rule.normal
        return abs(rule.weight @ (u**6 * (u + v > 0)) - 7.5)

    assert sixth(normal_rule(2, 256).widened(1.5)) < 0.05 < sixth(normal_rule(2, 256))
    near, farther = (normal_rule(2, 256).ring(radius) for radius in (4.0, 8.0))
    sums = [ring.weight @ np.exp(ring.normal[0] ** 2) for ring in (near, farther)]
    assert sums[0] < sums[1]  # the mean of exp(u^2) is infinite

    def slow(rule):  # E exp(0.45 u^2)
        return abs(rule.weight @ np.exp(0.45 * rule.normal[0] ** 2) - 10**0.5)

    assert slow(tensor_rule(1, 96).with_tails()) < 0.005 < 0.015 < slow(tensor_rule(1, 96))


def test_replicas_moved_apart_claim_an_error():
    def error(rule):
        beyond = [nodes.weight @ (nodes.normal[0] > 1.6) for nodes in (rule, *rule.groups)]
        return rule.error(beyond[0], beyond[1:])

    rule = normal_rule(1, 256)
    assert error(rule) < 1e-15
    assert 1e-3 < error(rule.apart(0)) < 4e-3


def test_factors_that_overflow_as_text():
    f = FactorFunction(sp.log(1 + sp.exp(z)))
    assert (f(np.array([800.0]))[0], f.parity, f.taylor(1)[1]) == (800.0, 0, 0.5)


def test_sigmoids_are_near_error_functions():
    near = sp.lambdify(z, of_neighbour(erf_mixtures(sp.tanh(z))).expr - sp.tanh(z), "scipy")
    assert np.max(np.abs(near(np.linspace(-9, 9, 99)))) < 2e-4
    assert erf_mixtures(sp.log(1 + sp.exp(z))) == ()


def test_sums_of_error_functions_converge_as_the_theory_page_says():
    """theory/one_pass A: 1.3e-6 with five terms, 8e-10 with nine."""
    places = np.linspace(-12, 12, 4001)
    gaps = [
        np.max(np.abs(sp.lambdify(z, mixture.expr, "scipy")(places) - np.tanh(places)))
        for mixture in erf_mixtures(sp.tanh(z))
    ]
    assert len(gaps) == 8
    assert gaps[3] == pytest.approx(1.3e-6, rel=0.1)
    assert gaps[7] == pytest.approx(8e-10, rel=0.1)
    assert all(5.0 < a / b < 10.0 for a, b in pairwise(gaps[1:]))
    assert 5.0 < gaps[0] / gaps[1] < 12.0


def test_averages_of_attention():
    s = dmft.Attention(2).matrix[0, 0]
    average = TokenAverage.of([(s, s)], (1, -1), 1, x, y)
    assert average.value({x: 0, y: 0}) == pytest.approx(0.417893, abs=1e-6)
    assert average.diff(y).orders == (0, 1)


def test_branches_grow_to_the_side_of_their_exponentials():
    """exp(2 z) on the left falls there, exp(3 z) on the right grows; and the mirror image."""
    step = sp.Heaviside(z, 0)
    factor = sp.exp(2 * z) * (1 - step) + sp.exp(3 * z) * step
    assert branches(factor).growths == (0.0, 3.0)
    assert branches(factor.subs(z, -z)).growths == (3.0, 0.0)


def test_error_functions_on_exponentials_that_grow_are_no_branches():
    """Two tails that grow would have to cancel."""
    assert branches(sp.erf(z) * sp.exp(-z)) is None
    assert branches(sp.erf(z) * sp.exp(z)) is None
    assert branches(sp.exp(z) * sp.Heaviside(-z) * sp.erf(z)) is not None


def test_integrals_of_errors_are_exact_for_exponentials():
    t = np.array([0.0, 1.0, 3.0])
    small = np.array([[0.1], [0.2], [0.2]])
    found = rounding._integral(t, small)
    assert found[:, 0] == pytest.approx([0.0, 0.1 / np.log(2.0), 0.1 / np.log(2.0) + 0.4])


def test_series_of_waves_end_before_they_are_inaccurate():
    """Coefficients of sin(s z) are s^n e^(-s^2/2)/sqrt(n!): no polynomial of a wide strip."""
    strips, error = series_strips(np.sin, -1, 0.1, 16.0, 10**5)
    assert error < 1e-11
    edges = strips[2 : 3 + int(strips[0])]
    assert 3.5 < edges[-1] < 16.0
