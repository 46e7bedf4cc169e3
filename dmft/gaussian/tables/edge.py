"""Hermite series that are right at correlation 1 and -1: the rest is taken from there."""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import sympy as sp

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.derivative import derivative
from dmft.gaussian.exponents.coefficients import Coefficient
from dmft.gaussian.nodes.sides import DIGITS, NORMAL, Side, remembered, rounding
from dmft.model import FIELD

CORRELATION = sp.Dummy("rho", positive=True)


def edge_pair(one: Side, two: Side, rho: sp.Expr, order: int) -> tuple[sp.Expr, sp.Expr]:
    """Series of E[f g] with the values at both edges, and its bound.

    Equation    sum_{n <= N} rho^n a_n + rho^{N+1} T + rho^{N+2} T', a_n = c_n d_n / n!, where T and
                T' hold what the sum of a_n and of (-1)^n a_n lacks of E[f g] at rho = 1 and -1;
                |R| <= |sum_{N < n <= N+J} a_n (rho^n - rho^{N+1 or N+2})|
                + |rho|^{N+1} sqrt(D_f D_g), D_f = sum_{n > N+J} (1 - |rho|^n) c_n^2 / n!
    Valid for   square-integrable f, g; |rho| <= 1; D -> 0 as |rho| -> 1 where f' is square
                integrable or E[f f] is closed
    Source      theory/one_pass A.7
    """
    known = [
        a.value * b.value / factorial(n)
        for n, (a, b) in enumerate(zip(one.coefficients, two.coefficients, strict=True))
    ]
    upper, lower = _edges(one, two)
    inside = range(order + 1)
    first = {n % 2: n for n in (order + 2, order + 1)}
    lacking = {
        0: (upper.value + lower.value) / 2 - sp.Add(*[known[n] for n in inside if n % 2 == 0]),
        1: (upper.value - lower.value) / 2 - sp.Add(*[known[n] for n in inside if n % 2 == 1]),
    }
    value = sp.Add(
        *[known[n] * rho**n for n in inside], *[t * rho ** first[p] for p, t in lacking.items()]
    )
    following = sp.Add(
        *[known[n] * (rho**n - rho ** first[n % 2]) for n in range(order + 1, len(known))]
    )
    size = sp.Abs(rho)
    left = _beyond(one, size) * _beyond(two, size)
    bound = sp.Abs(following) + size ** (order + 1) * sp.sqrt(left)
    numerical = [*one.coefficients, *two.coefficients, upper, lower]
    if any(c.error for c in numerical):
        bound += sp.Float(2 * rounding(one, two) + upper.error + lower.error)
    return value, bound


def _edges(one: Side, two: Side) -> tuple[Coefficient, Coefficient]:
    """E[f g] for coinciding and for opposite fields."""

    def mean(sign: int) -> Coefficient:
        return remembered(one.scaled * two.scaled.xreplace({NORMAL: sign * NORMAL}))[(0,)]

    upper = mean(1)
    for side in (one, two):
        for _, parity in side.known.flips:
            return upper, Coefficient(parity * upper.value, upper.exact, upper.error)
    return upper, mean(-1)


def _beyond(side: Side, size: sp.Expr) -> sp.Expr:
    """Upper limit of sum (1 - |rho|^n) c_n^2 / n! over n beyond those that are known."""
    limits = [side.remainder()]
    slope = _slope_remainder(side)
    if slope is not None:
        limits.append((1 - size) * slope)
    numbers = bool(size.is_number)
    if slope is None or numbers:
        closed = _kernel_remainder(side, size)
        limits += [] if closed is None else [closed]
    return min((sp.N(v, DIGITS) for v in limits), default=limits[0]) if numbers else limits[-1]


def _slope_remainder(side: Side) -> sp.Expr | None:
    """Sum of n c_n^2 / n! beyond, from E[f'^2]; None where f jumps or is too steep."""
    # 1 - r^n <= n (1 - r): the sum of n c_n^2 / n! over all n is E (df/du)^2.
    slope = derivative(side.function)
    if slope.has(sp.DiracDelta):
        return None
    squared = (side.variance * slope**2).xreplace({FIELD: side.field})
    try:
        total = remembered(squared)[(0,)]
    except (NotClosed, BadParameter):
        return None
    return side.beyond(total, [sp.Integer(n) for n in range(len(side.coefficients))])


def _kernel_remainder(side: Side, size: sp.Expr) -> sp.Expr | None:
    """The sum itself, where E[f(u) f(v)] at correlation |rho| is closed."""
    if size == 1:  # there the closed form of a kink off zero is 0/0
        return sp.S.Zero
    total = side.size[(0,)]
    if not (total.exact and all(c.exact for c in side.coefficients)):
        return None
    kernel = _kernel(side.scaled)
    if kernel is None:
        return None
    # A float, not a fraction of long integers, whose roots SymPy would factorise.
    place = sp.N(size, 2 * DIGITS) if size.is_number else size
    gap = Coefficient(total.value - kernel.xreplace({CORRELATION: place}), True)
    if gap.value.is_finite is False or gap.value is sp.nan:
        return None
    return side.beyond(gap, [1 - size**n for n in range(len(side.coefficients))])


@lru_cache(maxsize=256)
def _kernel(scaled: sp.Expr) -> sp.Expr | None:
    """E[f(u) f(v)] as a function of `CORRELATION`, if it is closed."""
    v = sp.Dummy("v", real=True)
    law = ClosedLaw([NORMAL, v], [[1, CORRELATION], [CORRELATION, 1]])
    try:
        return law.expect(scaled * scaled.xreplace({NORMAL: v}))
    except (NotClosed, BadParameter):
        return None
