"""Expressions as functions of complex balls, which enclose their values, and how fast they grow."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import product as cartesian
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


# Rates of growth are rounded up to multiples of this.
RATE_UNIT = 2**40
NOT_INTEGRABLE = "no bound proves that the integrand is integrable"
# Functions of a real argument that never exceed this.
BOUNDED: dict[type, int] = {
    sp.sign: 1, sp.Heaviside: 1, sp.sin: 1, sp.cos: 1, sp.tanh: 1, sp.erf: 1, sp.erfc: 2,
    sp.atan: 2, sp.sech: 1, sp.asin: 2, sp.acos: 4,
}  # fmt: skip
# Ends of the line that are tried, and steps of a crude Riemann sum.
ENDS = tuple(range(5, 16)) + tuple(range(16, 40, 2)) + tuple(range(40, 400, 10))
STEP = Fraction(1, 8)


@dataclass(frozen=True)
class Growth:
    """|f(x)| <= sum c |x|^n exp(b |x| + q x^2) for real x: {(n, b, q): c}."""

    terms: dict[tuple[int, Fraction, Fraction], Ball]

    def __add__(self, other: Growth) -> Growth:
        total = dict(self.terms)
        for key, c in other.terms.items():
            total[key] = total[key] + c if key in total else c
        return Growth(total)

    def __mul__(self, other: Growth) -> Growth:
        total: dict[tuple[int, Fraction, Fraction], Ball] = {}
        for (left, c), (right, d) in cartesian(self.terms.items(), other.terms.items()):
            key = (left[0] + right[0], left[1] + right[1], left[2] + right[2])
            total[key] = total[key] + c * d if key in total else c * d
        return Growth(total)

    def tail(self, mean: Ball, deviation: Ball, end: int) -> Ball | None:
        """Bound of E[|f(x)|; |u| > end], x = mean + deviation u; None where none is proven.

        For u >= end, |x| <= r u with r = deviation + |mean|/end, and the logarithm of the
        integrand u^n exp(b r u - k u^2/2), k = 1 - 2 q r^2, is concave with slope -slope at the
        end: the integral is at most its value there over that slope.
        """
        module = flint()
        ratio = (deviation + abs(mean) / end).upper()
        total = module.arb(0)
        for (n, b, q), c in self.terms.items():
            rate = real_ball(b) * ratio
            decay = 1 - (2 * real_ball(q) * ratio**2 if q > 0 else 0)
            slope = decay * end - rate - module.arb(n) / end
            if not slope > 0:
                return None
            height = (rate * end - decay * end**2 / 2).exp() * module.arb(end) ** n
            total += c * ratio**n * height / slope
        return (total * (2 / module.arb.pi()).sqrt()).upper()

    def average(self, mean: Ball, deviation: Ball) -> Ball:
        """Crude upper bound of E|f(x)|: the bound of f increases with |u|, the density falls."""
        module = flint()
        tails = ((e, self.tail(mean, deviation, e)) for e in ENDS)
        end, total = next(((e, t) for e, t in tails if t is not None), (0, None))
        if total is None:
            raise NotClosed(NOT_INTEGRABLE)
        for i in range(int(end / STEP)):
            near, far = real_ball(i * STEP), real_ball((i + 1) * STEP)
            size = abs(mean) + deviation * far
            height = sum(
                (
                    c
                    * size**n
                    * (real_ball(b) * size + real_ball(max(q, Fraction(0))) * size**2).exp()
                    for (n, b, q), c in self.terms.items()
                ),
                module.arb(0),
            )
            total += height * (-(near**2) / 2).exp() * real_ball(STEP)
        return total.upper()


def growth(expr: sp.Expr, *x: sp.Symbol) -> Growth:
    """Bound of a function of one or several real variables, from its structure.

    For several x, |x| is the largest of their absolute values.
    """
    if not expr.has_free(*x):
        return _constant(abs(constant(expr).real) + abs(constant(expr).imag))
    if expr in x:
        return Growth({(1, Fraction(0), Fraction(0)): flint().arb(1)})
    if expr.is_Add or isinstance(expr, sp.Max | sp.Min):
        return reduce(operator.add, (growth(a, *x) for a in expr.args))
    if expr.is_Mul:
        return reduce(operator.mul, (growth(a, *x) for a in expr.args), _constant(1))
    if isinstance(expr, sp.exp):
        return _exponential(expr, x)
    if expr.is_Pow:
        return _power_growth(expr, x)
    if type(expr) in BOUNDED:
        return _constant(BOUNDED[type(expr)])
    if isinstance(expr, sp.Abs):
        return growth(expr.args[0], *x)
    if isinstance(expr, sp.Piecewise):
        return reduce(operator.add, (growth(value, *x) for value, _ in expr.args), _constant(0))
    return _special(expr, x)


def _constant(value: Ball | int) -> Growth:
    return Growth({(0, Fraction(0), Fraction(0)): flint().arb(value)})


def _special(expr: sp.Expr, x: tuple[sp.Symbol, ...]) -> Growth:
    argument = expr.args[0]
    if isinstance(expr, sp.sinh | sp.cosh):
        return growth(sp.exp(argument), *x) + growth(sp.exp(-argument), *x)
    if isinstance(expr, sp.asinh):  # |asinh z| <= |z|
        return growth(argument, *x)
    rest = argument - 1
    if isinstance(expr, sp.log) and isinstance(rest, sp.exp):  # log(1 + e^a) <= log 2 + |a|
        return growth(rest.exp, *x) + _constant(1)
    if isinstance(expr, sp.log) and rest.is_nonnegative:  # 0 <= log(1 + h) <= h
        return growth(rest, *x)
    raise NotClosed(f"no bound of {expr} on the whole line is known")


def _power_growth(expr: sp.Expr, x: tuple[sp.Symbol, ...]) -> Growth:
    base, exponent = expr.base, expr.exp
    if not exponent.is_Rational:
        raise NotClosed(f"no bound of {expr} on the whole line is known")
    if exponent > 0:
        n = -int(-exponent // 1)
        total = reduce(operator.mul, [growth(base, *x)] * n, _constant(1))
        return total if exponent.is_Integer else total + _constant(1)
    # 1/(c + h) <= 1/c for a positive c and h >= 0.
    offset, rest = base.as_independent(*x, as_Add=True)
    if isinstance(base, sp.cosh):
        return _constant(1)
    if offset.is_positive and rest.is_nonnegative:
        return (
            _constant(1 / constant(offset).real ** int(-exponent))
            if exponent.is_Integer
            else (_constant(1 + (1 / constant(offset).real) ** -int(exponent // 1)))
        )
    raise NotClosed(f"no bound of {expr} on the whole line is known: its denominator may vanish")


def _exponential(expr: sp.Expr, x: tuple[sp.Symbol, ...]) -> Growth:
    exponent = sp.expand(expr.exp)
    if not exponent.is_polynomial(*x):
        if exponent.is_nonpositive:
            return _constant(1)
        raise NotClosed(f"no bound of {expr} on the whole line is known")
    size, linear, square = flint().arb(0), Fraction(0), Fraction(0)
    for powers, c in sp.Poly(exponent, *x).terms():
        degree, value = sum(powers), constant(sp.re(c)).real
        falls = all(n % 2 == 0 for n in powers) and value < 0
        if degree == 0:
            size = value
        elif degree == 1:
            linear += _rounded_up(abs(value))
        elif degree == 2 and len(x) == 1:
            square += _rounded_up(value)  # kept where it is negative: it may meet a positive one
        elif degree == 2 and not falls:
            square += _rounded_up(abs(value))
        elif not falls:
            raise NotClosed(f"{expr} grows faster than every Gaussian law decays")
    return Growth({(0, linear, square): size.exp()})


def _rounded_up(value: Ball) -> Fraction:
    """Rational upper bound of a ball; exact for a rational with a small denominator."""
    mantissa, exponent = (value.upper() * RATE_UNIT).ceil().upper().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent) / RATE_UNIT
