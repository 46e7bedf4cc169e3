"""`hermite_expansion` against textbook coefficients and integrals done another way."""

from math import comb, factorial

import mpmath
import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.nodes.grid import gaussian_nodes
from dmft.gaussian.nodes.kinks import break_points, switches

x, y, w, a = sp.symbols("x y w a", real=True)
ROOT = sp.sqrt(2 * sp.pi)


def double_factorial(n):
    return int(sp.factorial2(n))


# f -> E[f He_n] from the theory (theory/one_pass A.5, A.7) or by hand.
def erf_coefficient(n):
    m = (n - 1) // 2
    if n % 2 == 0:
        return 0
    return sp.sqrt(2 / sp.pi) * (-1) ** m * double_factorial(2 * m - 1) / sp.sqrt(2) ** (2 * m + 1)


def relu_coefficient(n):
    if n < 2:
        return (1 / ROOT, sp.Rational(1, 2))[n]
    m = n // 2 - 1
    return (-1) ** m * double_factorial(2 * m - 1) / ROOT if n % 2 == 0 else 0


def sign_coefficient(n):
    return 2 * hermite_at_zero(n - 1) / ROOT if n else 0


def hermite_at_zero(n):
    return 0 if n % 2 else (-1) ** (n // 2) * double_factorial(n - 1)


CLOSED = {
    "erf": (sp.erf(x / sp.sqrt(2)), erf_coefficient),
    "relu": (sp.Max(0, x), relu_coefficient),
    "abs": (sp.Abs(x), lambda n: 2 * relu_coefficient(n) if n % 2 == 0 else 0),
    "sign": (sp.sign(x), sign_coefficient),
    "step": (sp.Heaviside(x), lambda n: sign_coefficient(n) / 2 if n else sp.Rational(1, 2)),
    "exp": (sp.exp(x), lambda n: sp.exp(sp.Rational(1, 2))),
    "cos": (sp.cos(x), lambda n: 0 if n % 2 else (-1) ** (n // 2) * sp.exp(-sp.Rational(1, 2))),
    "shifted relu": (
        sp.Max(0, x - 1),
        # E[relu'' He_{n-2}] for n >= 2; two half-line integrals below.
        lambda n: (
            sp.exp(-sp.Rational(1, 2)) / ROOT * sp.expand(dmft.hermite(n - 2, x)).subs(x, 1)
            if n > 1
            else (
                sp.exp(-sp.Rational(1, 2)) / ROOT - sp.erfc(1 / sp.sqrt(2)) / 2,
                sp.erfc(1 / sp.sqrt(2)) / 2,
            )[n]
        ),
    ),
    "log": (
        sp.log(sp.Abs(x)),
        lambda n: {0: -(sp.EulerGamma + sp.log(2)) / 2, 2: 1, 4: -2}.get(n, 0),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_coefficients_of_one_field_are_the_formula_to_1e_15(name):
    f, formula = CLOSED[name]
    series = dmft.hermite_expansion(f, x, 5)
    for n, value in enumerate(series):
        truth = sp.N(formula(n), 30)
        assert abs(sp.N(value, 30) - truth) < 1e-15 * max(1, np.sqrt(factorial(n))), n
        # What claims to be exact is the formula itself; what does not, states its error.
        if series.by_index[(n,)].exact:
            assert sp.simplify((value - formula(n)).rewrite(sp.erf)) == 0
        else:
            assert series.by_index[(n,)].error > 0


def test_tanh_against_its_pole_expansion():
    # tanh x = sum over poles of 2x/(x^2 + b^2), b = pi (k + 1/2), and Stein: an independent sum.
    # E[x tanh x] = 2 sum_b (1 - b sqrt(pi/2) exp(b^2/2) erfc(b/sqrt 2)).
    with mpmath.workdps(30):
        truth = mpmath.nsum(
            lambda k: 2 - 2 * mpmath.sqrt(mpmath.pi / 2) * _mills(mpmath.pi * (k + 0.5)),
            [0, mpmath.inf],
        )
    value = dmft.hermite_expansion(sp.tanh(x), x, 1)
    assert not value.exact
    assert float(value[1]) == pytest.approx(float(truth), abs=1e-15)


def test_a_half_line_on_the_left_is_integrated_as_far_as_on_the_right():
    value = dmft.hermite_expansion(sp.Heaviside(-x) * sp.exp(-3 * x) / (2 - sp.sin(x)), x, 0)

    def on_the_right(u):
        return mpmath.npdf(u) * mpmath.exp(3 * u) / (2 + mpmath.sin(u))

    assert float(value[0]) == pytest.approx(float(mpmath.quad(on_the_right, range(17))), rel=1e-14)


def _mills(b):
    return b * mpmath.exp(b**2 / 2) * mpmath.erfc(b / mpmath.sqrt(2))


def test_exact_series_stay_exact_with_symbols():
    series = dmft.hermite_expansion(a * sp.exp(-(x**2)) + sp.erf(a * x), x, 3)
    assert series.exact
    assert series.error == 0
    assert series[0] == a / sp.sqrt(3)
    assert sp.simplify(series[1] - 2 * a / sp.sqrt(sp.pi * (1 + 2 * a**2))) == 0


def test_numbers_are_refused_while_symbols_are_open():
    with pytest.raises(NotClosed):
        dmft.hermite_expansion(sp.tanh(a * x), x, 2)


def test_partial_sum_of_a_polynomial_is_the_polynomial():
    f = 2 * x**5 - x**2 * y + 7 * y**3 - 1
    series = dmft.hermite_expansion(f, [x, y], 5)
    assert sp.expand(series.expr - f) == 0
    assert series.latex().count("=") == 1
    assert r"\approx" in dmft.hermite_expansion(f, [x, y], 4).latex()


def test_parseval_of_a_monomial():
    series = dmft.hermite_expansion(x**6, x, 6)
    assert sum(c**2 / sp.factorial(n) for n, c in enumerate(series)) == double_factorial(11)
    # x^m = sum_j m!/(2^j j! (m-2j)!) He_{m-2j}
    expected = [comb(6, n) * factorial(n) * double_factorial(5 - n) * (1 - n % 2) for n in range(6)]
    assert series[:6] == expected


def test_tensors_of_several_fields():
    series = dmft.hermite_expansion(x * y + x**2 + y**3, [x, y], 3)
    assert len(series) == 4
    assert next(iter(series)) == 1
    assert series[1].tolist() == [0, 3]
    assert series[2].tolist() == [[2, 1], [1, 0]]
    assert series[3][1, 1, 1] == series[0, 3] == 6
    assert series[3][0, 1, 1] == series[1, 2] == 0
    with pytest.raises(IndexError):
        series[4]
    with pytest.raises(IndexError):
        series[1, 1, 1]


def test_kinks_across_fields_are_split():
    # (x + y)/sqrt 2 is one standard normal: its ReLU coefficients times cos^n, sin^n.
    series = dmft.hermite_expansion(sp.Max(0, x + y), [x, y], 4)
    for n, value in series.by_index.items():
        k = sum(n)
        truth = sp.sqrt(2) * relu_coefficient(k) / sp.sqrt(2) ** k
        assert abs(sp.N(value.value) - truth) < 1e-12, n
    triple = dmft.hermite_expansion(sp.sign(x * y * w), [x, y, w], 3)
    assert float(triple[1, 1, 1]) == pytest.approx(float((2 / ROOT) ** 3), abs=1e-12)
    assert triple[2].tolist() == [[0] * 3] * 3


def test_high_orders_keep_the_error_that_they_state():
    # exp(x^2/5) shifts what He_n sees into the tails. Substituting x = u/sqrt(3/5) leaves
    # E[tanh(x) He_n(x)] under a wider law: a plain sum in 40 digits judges. With poles at i pi/2
    # its error falls as exp(-pi^2 / step), and beyond 26 the weight is below 1e-88.
    f, n = sp.exp(x**2 / 5) * sp.tanh(x), 31
    found = dmft.gaussian.exponents.coefficients.Coefficients(f, (x,))[(n,)]

    def he(t):
        before, value = mpmath.mpf(0), mpmath.mpf(1)
        for k in range(n):
            before, value = value, t * value - k * before
        return value

    with mpmath.workdps(40):
        size = mpmath.sqrt(mpmath.factorial(n))
        truth = mpmath.fsum(
            mpmath.tanh(t) * mpmath.exp(-3 * t**2 / 10) * he(t)
            for t in (mpmath.mpf(i) / 12 for i in range(1, 12 * 26))
        ) / (6 * mpmath.sqrt(2 * mpmath.pi) * size)  # fmt: skip
        gap = abs(mpmath.mpf(str(found.value)) / size - truth)
        assert gap <= found.error / size < 1e-17
        assert abs(truth) > 1e-7


def test_high_orders_of_several_fields_state_their_tails(monkeypatch):
    # A function of one direction a: the coefficient of alpha is c_n a^alpha.
    f, g = sp.tanh((6 * x + 8 * y) / 5), sp.tanh(2 * x)
    pair = dmft.gaussian.exponents.coefficients.Coefficients(f, (x, y))
    single = dmft.gaussian.exponents.coefficients.Coefficients(g, (x,))
    for n in ((1, 0), (4, 5), (0, 9), (15, 0)):
        truth = float(single[(sum(n),)].value) * 0.6 ** n[0] * 0.8 ** n[1]
        found = pair[n]
        assert abs(float(found.value) - truth) <= found.error + 1e-16 * abs(truth), n
    four = sp.symbols("v1:5", real=True)
    wide = dmft.gaussian.exponents.coefficients.Coefficients(sp.tanh(sum(four)), four)
    monkeypatch.setattr("dmft.gaussian.nodes.grid.MAX_NODES", 1_100_000)  # of 100 MB
    with pytest.raises(BadParameter, match="precision runs out at order"):
        wide[(25, 0, 0, 0)]


def test_kinks_inside_switching_functions_are_unfolded():
    # Where max(x, y^2) - 1 vanishes, one of its branches does; those are polynomials.
    assert switches(sp.sign(sp.Max(x, y**2) - 1), (x, y)) == [x - 1, x - y**2, y**2 - 1]
    assert switches(sp.Abs(sp.Abs(x) - 1), (x,)) == [x, x - 1, x + 1]


def test_switching_functions_and_break_points():
    f = sp.Piecewise((x, x > y), (0, True)) + sp.sign(x**2 - 2) + sp.sqrt(sp.Abs(x)) + 1 / (x - 1)
    found = switches(f, (x, y))
    assert {sp.Abs(s).subs({x: 3, y: 5}) for s in found} == {2, 7, 3}
    assert all(s.subs({x: 3, y: 5}) != 0 for s in found)
    roots = [float(r) for r in break_points(sp.sign(sp.cos(x)), x, 5)]
    assert roots == pytest.approx([-3 * np.pi / 2, -np.pi / 2, np.pi / 2, 3 * np.pi / 2], abs=1e-14)
    assert break_points(sp.tanh(x), x, 5) == []


def test_nodes_hold_the_normal_law():
    nodes = gaussian_nodes(sp.sign(x * y - 1) + w, [x, y, w], 1)
    moments = nodes.points @ (nodes.weights[:, None] * nodes.points.T)
    np.testing.assert_allclose(moments, np.eye(3), atol=1e-9)


def test_nodes_follow_every_kink_of_three_fields():
    # E max(x, y, w) = 3/(2 sqrt(pi)); a tensor grid that splits one axis only is off by 1e-5.
    f = sp.Max(x, y, w)
    for level, tolerance in ((0, 1e-6), (2, 1e-11)):
        nodes = gaussian_nodes(f, [x, y, w], level)
        assert nodes.weights @ nodes.values == pytest.approx(1.5 / np.sqrt(np.pi), abs=tolerance)


def test_panels_are_halved_near_poles_and_jumps():
    # E[floor(x) x] = sum of the densities at the integers; tanh(40 x) is a sign up to O(1/40^2).
    staircase = dmft.hermite_expansion(sp.floor(x), x, 1)
    density = [np.exp(-(n**2) / 2) / np.sqrt(2 * np.pi) for n in range(-12, 13)]
    assert float(staircase[1]) == pytest.approx(sum(density), abs=1e-14)
    steep = float(dmft.hermite_expansion(sp.tanh(40 * x), x, 1)[1])
    limit = float(2 / ROOT)
    assert 0 < limit - steep < limit / 40**2


@pytest.mark.parametrize(
    ("f", "field", "order", "match"),
    [
        (sp.exp(x**2), x, 1, "not integrable"),
        (sp.tanh(x * y) * sp.exp(x**2), [x, y], 1, "not integrable"),
        (x, x, -1, "order"),
        (x, [x, x], 1, "distinct"),
        ("x", x, 1, "f = 'x' must be a SymPy expression"),
        (sp.tanh(x), "x", 1, "symbol"),
    ],
)
def test_refusals(f, field, order, match):
    with pytest.raises(BadParameter, match=match):
        dmft.hermite_expansion(f, field, order)


def test_orders_beyond_the_precision_of_the_quadrature_are_refused():
    law = dmft.Gaussian([x, y], [[1, 0.5], [0.5, 1]])
    for ask in (
        lambda: dmft.hermite_expansion(sp.tanh(x), x, 150),
        lambda: dmft.hermite_expansion(sp.tanh(x) + 1, x, 200),
        lambda: law.series(sp.tanh(x) * sp.tanh(y), 150),
    ):
        with pytest.raises(BadParameter, match="precision runs out at order"):
            ask()
    for ask in (
        lambda: dmft.hermite_expansion(sp.tanh(x), x, 400),
        lambda: dmft.hermite_expansion(sp.tanh(x) + 1, x, 10**6),
    ):
        with pytest.raises(BadParameter, match="order must be an integer from 0 to 200, got"):
            ask()


def test_stairs_across_fields_are_refused():
    with pytest.raises(BadParameter, match="stairs"):
        dmft.hermite_expansion(sp.floor(x + y), [x, y], 2)
