"""Expectations over one Gaussian field, enclosed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, Enclosure, constant, enclosure, flint, real_ball
from dmft.gaussian.certified.growth import ENDS, NOT_INTEGRABLE, Growth, growth
from dmft.gaussian.certified.pieces import pieces

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
        raise NotClosed("the integral has no finite enclosure: a pole, or a function too wild")
    return (value * width).real


def _clipped(point: Ball, end: int) -> Ball:
    module = flint()
    return module.arb(point).min(module.arb(end)).max(module.arb(-end))
