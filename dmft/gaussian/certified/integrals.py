"""Expectations over one Gaussian field, and over two that have no closed average, enclosed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import (
    ENDS,
    NOT_INTEGRABLE,
    Ball,
    Enclosure,
    Growth,
    constant,
    enclosure,
    flint,
    growth,
    real_ball,
)
from dmft.gaussian.certified.pieces import pieces
from dmft.gaussian.certified.signed import RationalLaw
from dmft.gaussian.closed.switch import SWITCHES

# Points of the line at which the size of an integrand is looked at (a goal, not a proof).
PROBES = tuple(Fraction(i, 4) for i in range(-24, 25))
# Evaluations that one panel may take before its ball is returned as wide as it is.
EVALUATIONS = 40_000
Factor = Callable[[Ball, bool], Ball]


def line_expectation(
    expr: sp.Expr,
    x: sp.Symbol,
    mean: Fraction,
    variance: Fraction,
    digits: int,
    *,
    factor: Factor | None = None,
    tail: Callable[[int], Ball | None] | None = None,
    goal: Ball | None = None,
) -> Ball:
    """Ball of E[f(x) G(x)] for x ~ N(mean, variance), variance > 0; G is `factor`, or 1.

    Substituting x = mean + sqrt(variance) u, panels end at the breaks of f, and each is
    integrated by Arb (Gauss-Legendre with proven errors); what lies beyond |u| = end is bounded
    by `tail`, by default from the growth of f. `goal` is the absolute error aimed at, by default
    10^-digits of the integral of the absolute value.
    """
    module = flint()
    center, deviation = real_ball(mean), real_ball(variance).sqrt()
    parts = pieces(expr, x)
    tail = tail or _tail_of(growth(expr, x), center, deviation)
    functions = [enclosure(v, (x,)) for v in parts.values]
    smooth = [_integrand(f, center, deviation, factor) for f in functions]
    breaks = [(constant(b).real - center) / deviation for b in parts.breaks]
    goal = goal if goal is not None else _size(smooth, breaks) * module.arb(10) ** (-digits)
    end, rest = _cut(tail, goal / 8)
    total = module.arb(0, rest)
    for smooth_part, (low, high) in zip(smooth, pairwise([-end, *breaks, end]), strict=True):
        total += _panel(smooth_part, low, high, end, goal / (8 * len(smooth)))
    return total


def _tail_of(bound: Growth, center: Ball, deviation: Ball) -> Callable[[int], Ball | None]:
    return lambda end: bound.tail(center, deviation, end)


def _integrand(f: Enclosure, center: Ball, deviation: Ball, factor: Factor | None) -> Factor:
    """The product f G times the normal density as a function of u."""
    weight = 1 / (2 * flint().arb.pi()).sqrt()

    def integrand(u: Ball, analytic: bool) -> Ball:
        x = center + deviation * u
        value = f((x,), analytic) * (-(u * u) / 2).exp() * weight
        return value if factor is None else value * factor(x, analytic)

    return integrand


def _size(functions: list[Factor], breaks: list[Ball]) -> Ball:
    """Rough integral of the absolute value (only a goal depends on it)."""
    module = flint()
    total = module.arb(0)
    for u in PROBES:
        ball = real_ball(u)
        i = sum(1 for b in breaks if float(b) < float(u))
        value = functions[i](module.acb(ball), False)
        if value.is_finite():
            total += abs(value.real).upper() / 4
    # The goal must not vanish with the function.
    return module.arb(max(float(total.mid()), 1e-300))


def _cut(tail: Callable[[int], Ball | None], goal: Ball) -> tuple[int, Ball]:
    """End of the line and the bound beyond it."""
    best = None
    for end in ENDS:
        rest = tail(end)
        if rest is not None and rest.is_finite():
            best = (end, rest)
            if rest < goal:
                break
    if best is None:
        raise NotClosed(NOT_INTEGRABLE)
    return best


def _panel(integrand: Factor, low: Ball, high: Ball, end: int, goal: Ball) -> Ball:
    """Integral over [low, high] within [-end, end]; the panel is mapped to [0, 1]."""
    module = flint()
    low, high = _clipped(low, end), _clipped(high, end)
    width = high - low
    if width.is_zero():
        return module.arb(0)

    def mapped(s: Ball, analytic: bool) -> Ball:
        return integrand(low + width * s, analytic)

    value = module.acb.integral(
        mapped, 0, 1, rel_tol=module.arb(2) ** -module.ctx.prec, abs_tol=goal / abs(width).upper(),
        eval_limit=EVALUATIONS,
    )  # fmt: skip
    if not value.is_finite():
        raise NotClosed("the integral has no finite enclosure: it may have a pole or vary too fast")
    return (value * width).real


def _clipped(point: Ball, end: int) -> Ball:
    module = flint()
    return module.arb(point).min(module.arb(end)).max(module.arb(-end))


# Longest Hermite series, and the digits beyond which a nested integral is hopeless.
MAX_ORDER = 80
NESTED_DIGITS = 10
NESTED_EVALUATIONS = 4000
# End of the square of a nested integral: erfc(13/sqrt 2)^(1/2) is below 1e-19.
SQUARE_END = 13


def series_expectation(
    f: sp.Expr, x: sp.Symbol, g: sp.Expr, y: sp.Symbol, law: RationalLaw, digits: int
) -> Ball:
    r"""Ball of E[f(x) g(y)], law of (x, y) with positive variances, by Hermite coefficients.

    With a_n = E[f h_n], b_n = E[g h_n] and h_n = He_n/sqrt(n!) orthonormal in the standardised
    field, E[f g] = sum_n rho^n a_n b_n, and by Parseval and Cauchy-Schwarz

        |sum_{n > N} rho^n a_n b_n| <= |rho|^(N+1) sqrt(E f^2 - sum a_n^2) sqrt(E g^2 - sum b_n^2).
    """
    module = flint()
    C = law.cov
    rho = real_ball(C[0][1]) / (real_ball(C[0][0]).sqrt() * real_ball(C[1][1]).sqrt())
    first = _Coefficients(f, x, law.mean[0], C[0][0], digits)
    second = _Coefficients(g, y, law.mean[1], C[1][1], digits)
    goal = (first.square * second.square).sqrt() * module.arb(10) ** (-digits)
    total, power, n = module.arb(0), module.arb(1), 0
    while True:
        total += power * first.next() * second.next()
        power *= rho
        left = (first.left() * second.left()).upper()  # exact, so that its root is finite
        rest = (abs(power) * left.sqrt()).upper()
        n += 1
        if rest < goal or n > MAX_ORDER:
            return total + module.arb(0, rest)


class _Coefficients:
    """Coefficients of one function in orthonormal Hermite polynomials, one after another."""

    def __init__(
        self, f: sp.Expr, x: sp.Symbol, mean: Fraction, variance: Fraction, digits: int
    ) -> None:
        self.f, self.x, self.mean, self.variance, self.digits = f, x, mean, variance, digits
        self.center, self.deviation = real_ball(mean), real_ball(variance).sqrt()
        bound = growth(f, x)
        self.squared = bound * bound
        self.square = line_expectation(f**2, x, mean, variance, digits)
        self.goal = self.square.sqrt() * flint().arb(10) ** (-digits)
        self.seen = flint().arb(0)
        self.order = 0
        mirrored = f.xreplace({x: -x}) if mean == 0 else None
        # Parity of the coefficients that vanish by symmetry, if any.
        self.absent = 1 if mirrored == f else 0 if mirrored == -f else None

    def next(self) -> Ball:
        """a_n for the next n."""
        if self.order % 2 == self.absent:
            self.order += 1
            return flint().arb(0)
        value = line_expectation(
            self.f, self.x, self.mean, self.variance, self.digits,
            factor=self._polynomial(self.order), tail=self._tail, goal=self.goal,
        )  # fmt: skip
        self.order += 1
        self.seen += value * value  # arb's power is nan around zero
        return value

    def left(self) -> Ball:
        """Upper bound of what Parseval leaves for the later coefficients."""
        left = (self.square - self.seen).upper()
        return flint().arb(0) if left <= 0 else left  # nan stays nan

    def _tail(self, end: int) -> Ball | None:
        rest = self.squared.tail(self.center, self.deviation, end)
        return None if rest is None else rest.sqrt().upper()  # E h_n^2 = 1

    def _polynomial(self, n: int) -> Callable[[Ball, bool], Ball]:
        center, deviation, module = self.center, self.deviation, flint()

        def polynomial(x: Ball, _analytic: bool) -> Ball:
            u = (x - center) / deviation
            last, this = module.acb(0), module.acb(1)
            for m in range(n):
                root = module.arb(m + 1).sqrt()
                last, this = this, (u * this - module.arb(m).sqrt() * last) / root
            return this

        return polynomial


def nested_expectation(
    expr: sp.Expr, fields: tuple[sp.Symbol, sp.Symbol], law: RationalLaw, digits: int
) -> Ball:
    """Ball of E[f(x, y)] of a smooth f that does not factorise, by an integral of integrals.

    With x = m + s u and y = E[y|x] + r v, the square |u|, |v| <= 13 is integrated; outside,
    E[|f|; outside] <= sqrt(E f^2 P(outside)), and E f^2 is bounded by the growth of f, since an
    increasing function of max(|x|, |y|) is at most the sum of its values at |x| and |y|.
    """
    if expr.has(*SWITCHES):
        raise NotClosed(f"{expr} is neither smooth nor a sum of products of functions of one field")
    module = flint()
    C, m = law.cov, law.mean
    slope = C[0][1] / C[0][0]
    deviations = [real_ball(C[i][i]).sqrt() for i in range(2)]
    rest = real_ball(C[1][1] - slope * C[0][1]).sqrt()
    bound = growth(expr, *fields)
    square = bound * bound
    second_moment = sum(
        (square.average(real_ball(m[i]), deviations[i]) for i in range(2)), module.arb(0)
    )
    outside = 2 * (module.arb(SQUARE_END) / module.arb(2).sqrt()).erfc()
    f = enclosure(expr, fields)
    goal = module.arb(10) ** (-min(digits, NESTED_DIGITS)) * second_moment.sqrt()
    end = SQUARE_END

    def over_v(u: Ball, analytic: bool) -> Ball:
        x = real_ball(m[0]) + deviations[0] * u
        center = real_ball(m[1]) + real_ball(slope) * deviations[0] * u

        def inner(v: Ball, flag: bool) -> Ball:
            value = f((x, center + rest * v), flag or analytic)
            return value * (-(v * v) / 2).exp()

        part = module.acb.integral(
            inner, -end, end, abs_tol=goal / 8, rel_tol=goal, eval_limit=NESTED_EVALUATIONS
        )
        return part * (-(u * u) / 2).exp()

    value = module.acb.integral(
        over_v, -end, end, abs_tol=goal, rel_tol=goal, eval_limit=NESTED_EVALUATIONS
    )
    if not value.is_finite():
        raise NotClosed(f"the nested integral of {expr} has no finite enclosure")
    tail = (second_moment * outside).sqrt().upper()
    return value.real / (2 * module.arb.pi()) + module.arb(0, tail)
