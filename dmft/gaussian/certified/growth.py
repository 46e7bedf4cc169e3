"""Proven bounds of functions on the whole line, and of what they leave in the tails."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import product as cartesian

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, constant, flint, real_ball

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

    With several, |x| stands for the largest of their absolute values.
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
        return _power(expr, x)
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


def _power(expr: sp.Expr, x: tuple[sp.Symbol, ...]) -> Growth:
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
