"""Emitted code against SymPy's own arbitrary-precision evaluation."""

import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dmft.emit import emit_expression, emit_scalar_function, scalar_function
from dmft.errors import BadParameter

x, a, b = sp.symbols("x a b", real=True)

UNARY = [
    sp.erf, sp.erfc, sp.sin, sp.cos, sp.atan, sp.tanh, sp.Abs, sp.sign, sp.Heaviside,
    lambda u: sp.exp(-(u**2)),
    lambda u: sp.log(1 + u**2),
    lambda u: sp.sqrt(2 + u),
    lambda u: sp.sqrt(1 + u**2) ** 3,
    lambda u: 1 / (3 + u) ** 2,
    lambda u: (1 + u**2) ** sp.Rational(-3, 2),
    lambda u: sp.asin(u / 9),
    lambda u: sp.acos(u / 9),
    lambda u: sp.tan(u / 9) + sp.sinh(u / 9) * sp.cosh(u / 9),
    lambda u: sp.Max(0, u) - sp.Min(u, 1, u**2),
    lambda u: sp.Piecewise((u**2, u < -sp.Rational(1, 2)), (-u, sp.And(u > 0, u <= 1)), (2, True)),
    lambda u: u**3 - 3 * u,
    lambda u: -(u**2) / 7 * sp.pi,
    lambda u: sp.Float("0.25") * u - sp.E,
]  # fmt: skip
BINARY = [
    lambda u, v: u + v,
    lambda u, v: u - v,
    lambda u, v: u - (u + 2 * v),
    lambda u, v: u * v,
    lambda u, v: u / (2 + v**2),
    lambda u, v: -u / (3 * (1 + v**2) ** 2),
    lambda u, v: (u + v) ** 2 * sp.Rational(-5, 3),
]


@st.composite
def expressions(draw):
    atoms = st.sampled_from([x, a, b, sp.Rational(1, 3), sp.Integer(-2), sp.Float(0.75)])
    parts = [draw(atoms), draw(atoms), x]
    for _ in range(draw(st.integers(1, 4))):
        u, v = draw(st.sampled_from(parts)), draw(st.sampled_from(parts))
        new = draw(st.sampled_from(UNARY))(u) if draw(st.booleans()) else None
        parts.append(draw(st.sampled_from(BINARY))(u, v) if new is None else new)
    return parts[-1]


def evaluate(text, point):
    """The emitted text run by Python itself: the same text that Numba compiles."""
    names = {"math": math, "np": np, "abs": abs}
    return eval(compile(text, "emitted", "eval"), names, point)


# Multiples of 1/64 are exact in binary, so that jumps of sign and Heaviside are met exactly.
dyadic = st.integers(-128, 128).map(lambda n: sp.Rational(n, 64))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(expressions(), st.tuples(dyadic, dyadic, dyadic))
def test_emitted_text_equals_sympy_evaluation(expr, values):
    point = dict(zip((x, a, b), values, strict=True))
    truth = expr.subs(point).evalf(30)
    assume(truth.is_real and truth.is_finite and abs(truth) < 1e6)
    text = emit_expression(expr, {x: "x", a: "a", b: "b"})
    try:
        value = evaluate(text, {str(s): float(v) for s, v in point.items()})
    except (ValueError, ZeroDivisionError, OverflowError):
        assume(False)  # outside the domain of an intermediate, where Numba gives NaN
    assert value == pytest.approx(float(truth), rel=1e-11, abs=1e-11), text


def test_compiled_function_equals_sympy_evaluation():
    expr = sp.diff(sp.tanh(a * x) * sp.erf(x) ** 2 + sp.Max(0, x) ** 3 + b * x**4, x)
    function = scalar_function(expr, x, [b, a])
    for at in (-1.3, -0.1, 0.4, 2.2):
        truth = float(expr.subs({x: at, a: 0.8, b: -0.3}).evalf(25))
        assert function(at, np.array([-0.3, 0.8])) == pytest.approx(truth, rel=1e-13)


@pytest.mark.parametrize(
    ("expr", "at", "value"),
    [
        (sp.Heaviside(x), 0.0, 0.5),
        (sp.Heaviside(x, 1), 0.0, 1.0),
        (sp.Heaviside(x, 0), -3.0, 0.0),
        (sp.sign(x), 0.0, 0.0),
        (-(x**2), 3.0, -9.0),
        (1 / x, 0.0, math.inf),
        (sp.Max(0, x), math.nan, math.nan),
        (sp.Heaviside(x), math.nan, math.nan),
        (sp.Heaviside(x, 1), math.nan, math.nan),
        (sp.sqrt(x), -1.0, math.nan),
        (sp.Rational(1, 3) + 0 * x, 0.0, 1 / 3),
    ],
)
def test_edge_values_of_compiled_functions(expr, at, value):
    got = scalar_function(expr, x)(at, np.empty(0))
    assert got == value or (math.isnan(value) and math.isnan(got))


@pytest.mark.parametrize(
    ("expr", "word"),
    [
        (sp.DiracDelta(x), "DiracDelta"),
        (sp.gamma(x), "gamma"),
        (sp.I * x, "ImaginaryUnit"),
        (sp.Function("f")(x), "f"),
        (sp.Sum(x, (a, 1, 3)), "Sum"),
        (sp.Integral(sp.exp(-(x**4)), (x, 0, 1)), "Integral"),
        (x + sp.oo, "Infinity"),
        (x * sp.Integer(10) ** 400, "Integer"),
        (x + b, "b"),
    ],
)
def test_nodes_outside_the_whitelist_are_named(expr, word):
    with pytest.raises(BadParameter, match=word):
        emit_expression(expr, {x: "x", a: "a"})


def test_symbol_name_cannot_inject_code():
    evil = sp.Symbol("y\nimport os", real=True)
    source = emit_scalar_function(evil**2 + x, x, [evil])
    assert not any(line.startswith("import os") for line in source.splitlines())


def test_sums_of_any_length_can_be_compiled():
    """Python compiles a row of terms by recursion: some thousand of them are too many."""
    terms = [(-1) ** n * (n + 1) * x**n for n in range(3000)]
    code = emit_expression(sp.Add(*terms), {x: "x"})
    # The series of 1/(1 + x)^2.
    assert evaluate(code, {"x": 0.3}) == pytest.approx(1 / 1.3**2, rel=1e-12)
