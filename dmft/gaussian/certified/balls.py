"""SymPy expressions as functions of complex balls; each value encloses the exact one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, MissingExtra, NotClosed

# A ball of python-flint (`arb` or `acb`); that package is optional.
Ball = Any
# Function of the fields and of Arb's flag that asks for a proof of analyticity.
Enclosure = Callable[[Sequence[Ball], bool], Ball]


def flint() -> Any:
    """The module python-flint, or the error that names the extra."""
    try:
        import flint as module
    except ImportError as error:
        raise MissingExtra('certify needs python-flint: pip install "dmft[certify]"') from error
    return module


def exact_fraction(value: sp.Expr) -> Fraction | None:
    """Rational value; a float is the binary fraction that it holds; None for other numbers."""
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    if value.is_Float:
        sign, mantissa, exponent, _ = value._mpf_
        return (-1) ** int(sign) * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return None


def as_fraction(value: sp.Expr) -> Fraction:
    """Fraction of a number that is known to have one."""
    result = exact_fraction(sp.sympify(value, strict=True))
    assert result is not None
    return result


def rational(value: Fraction) -> sp.Rational:
    """SymPy number of a fraction."""
    return sp.Rational(value.numerator, value.denominator)


def real_ball(value: Fraction | int) -> Ball:
    """Real ball of a fraction, at the working precision."""
    module = flint()
    value = Fraction(value)
    return module.arb(module.fmpq(value.numerator, value.denominator))


def constant(expr: sp.Expr) -> Ball:
    """Complex ball of an expression without free symbols, at the working precision."""
    if expr.free_symbols:
        extra = sorted(map(str, expr.free_symbols))
        raise BadParameter(f"{expr} contains {extra}, which have no value: pass values={{...}}")
    return enclosure(expr, ())((), False)


def enclosure(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> Enclosure:
    """Compile an expression to a function of balls, constants rounded at the working precision.

    With the flag `analytic`, the result is not finite unless the function is analytic on the ball.
    """
    if fields and not expr.has_free(*fields):
        value = constant(expr)
        return lambda _point, _analytic: value
    if expr.is_Symbol:
        if expr not in fields:
            raise BadParameter(f"{expr} has no value: pass values={{{expr}: ...}}")
        position = list(fields).index(expr)
        return lambda point, _analytic: point[position]
    if expr.is_number and not expr.args:
        value = _atom(expr)
        return lambda _point, _analytic: value
    if isinstance(expr, sp.CRootOf):
        value = _algebraic(expr)
        return lambda _point, _analytic: value
    if expr.is_Pow or isinstance(expr, sp.exp):
        return _power(expr, fields)
    parts = [enclosure(a, fields) for a in expr.args]
    if expr.is_Add or expr.is_Mul:
        return _folded(parts, operator.add if expr.is_Add else operator.mul)
    return _call(expr, parts)


def _atom(expr: sp.Expr) -> Ball:
    module = flint()
    fraction = exact_fraction(expr)
    if fraction is not None:
        return module.acb(real_ball(fraction))
    known = {sp.pi: module.arb.pi, sp.E: module.arb.const_e, sp.EulerGamma: module.arb.const_euler}
    if expr in known:
        return module.acb(known[expr]())
    if expr is sp.I:
        return module.acb(0, 1)
    raise NotClosed(f"no enclosure of the number {expr} is known")


def _algebraic(root: sp.CRootOf) -> Ball:
    """A real root from its isolating interval, which exact bisection makes small."""
    module = flint()
    width = Fraction(1, 2 ** (module.ctx.prec + 8))
    near = as_fraction(root.eval_rational(dx=rational(width)))
    return module.acb(real_ball(near) + module.arb(0, real_ball(width).upper()))


def _folded(parts: list[Enclosure], operation: Callable[[Ball, Ball], Ball]) -> Enclosure:
    return lambda point, analytic: reduce(operation, (part(point, analytic) for part in parts))


def _power(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> Enclosure:
    if isinstance(expr, sp.exp) or expr.base == sp.E:
        inner = enclosure(expr.exp, fields)
        return lambda point, analytic: inner(point, analytic).exp()
    base, exponent = enclosure(expr.base, fields), expr.exp
    if exponent.is_Integer:
        n = int(exponent)
        return lambda point, analytic: base(point, analytic) ** n
    if exponent in (sp.Rational(1, 2), -sp.Rational(1, 2)):
        inverse = exponent.is_negative

        def root(point: Sequence[Ball], analytic: bool) -> Ball:
            value = base(point, analytic).sqrt(analytic=analytic)
            return 1 / value if inverse else value

        return root
    power = enclosure(exponent, fields)
    return lambda point, analytic: base(point, analytic).pow(
        power(point, analytic), analytic=analytic
    )


# Entire or meromorphic: nothing to prove.
PLAIN: dict[type, str] = {
    sp.erf: "erf", sp.erfc: "erfc", sp.erfi: "erfi", sp.sin: "sin", sp.cos: "cos",
    sp.tan: "tan", sp.cot: "cot", sp.sec: "sec", sp.csc: "csc", sp.sinh: "sinh",
    sp.cosh: "cosh", sp.tanh: "tanh", sp.coth: "coth", sp.sech: "sech", sp.csch: "csch",
}  # fmt: skip
# With branch cuts or switches, that Arb checks itself.
CHECKED: dict[type, str] = {
    sp.log: "log", sp.Abs: "real_abs", sp.sign: "real_sgn", sp.Heaviside: "real_heaviside",
}  # fmt: skip
# Analytic off the cut of sqrt(1 + square * z^2).
CUT: dict[type, tuple[str, int]] = {
    sp.atan: ("atan", 1), sp.asinh: ("asinh", 1), sp.asin: ("asin", -1), sp.acos: ("acos", -1),
    sp.atanh: ("atanh", -1),
}  # fmt: skip


def _call(expr: sp.Expr, parts: list[Enclosure]) -> Enclosure:
    first = parts[0]
    if type(expr) in PLAIN:
        name = PLAIN[type(expr)]
        return lambda point, analytic: getattr(first(point, analytic), name)()
    if type(expr) in CHECKED:
        name = CHECKED[type(expr)]
        return lambda point, analytic: getattr(first(point, analytic), name)(analytic=analytic)
    if type(expr) in CUT:
        name, square = CUT[type(expr)]

        def cut(point: Sequence[Ball], analytic: bool) -> Ball:
            z = first(point, analytic)
            value = getattr(z, name)()
            if analytic and not (1 + square * z * z).sqrt(analytic=True).is_finite():
                return value * flint().acb("nan")
            return value

        return cut
    if isinstance(expr, sp.Max | sp.Min):
        name = "real_max" if isinstance(expr, sp.Max) else "real_min"

        def extreme(point: Sequence[Ball], analytic: bool) -> Ball:
            values = (part(point, analytic) for part in parts)
            return reduce(lambda a, b: getattr(a, name)(b, analytic=analytic), values)

        return extreme
    raise NotClosed(f"no enclosure of {expr.func.__name__} is known, in {expr}")
