r"""Averages over one field given another, in closed form: two-field expectations on one line.

For y ~ N(mu, v) and g(y) = y^n exp(-k y^2/2 + l y) on an interval, completing the square leaves a
moment of N(mu', s^2) over that interval, s^2 = v/(1 + k v), mu' = (mu + l v)/(1 + k v), times

    (1 + k v)^(-1/2) exp((mu'^2/s^2 - mu^2/v)/2),

and moments follow by integrating the derivative of y^(n-1) times the density:

    M_n = mu' M_(n-1) + (n-1) s^2 M_(n-2) - s^2 [y^(n-1) p(y)].

With an error function under the integral, the derivative acts on it as well and leaves moments of
a Gaussian factor. All of these are entire functions of mu, so the outer integral over x may be
taken by `line_expectation`. No bivariate integral is used (derivations/certificates.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, constant, flint, real_ball
from dmft.gaussian.certified.pieces import Pieces, pieces

Average = Callable[[Ball], Ball]
# (n, coefficient), ... of a polynomial; (a, c), ... of error functions erf(a y + c).
Powers = tuple[tuple[int, sp.Expr], ...]
Erfs = tuple[tuple[sp.Expr, sp.Expr], ...]


@dataclass(frozen=True)
class Wave:
    """Polynomial times exp(-curvature y^2/2 + slope y) times error functions."""

    powers: Powers
    curvature: sp.Expr = sp.S.Zero
    slope: sp.Expr = sp.S.Zero
    erfs: Erfs = ()


def waves(expr: sp.Expr, y: sp.Symbol) -> list[Wave]:
    """Parse a smooth function of y; NotClosed names what does not fit."""
    oscillating = expr.atoms(sp.sin, sp.cos, sp.sinh, sp.cosh)
    expr = expr.xreplace({w: w.rewrite(sp.exp) for w in oscillating if w.has_free(y)})
    expr = expr.replace(sp.erfc, lambda a: 1 - sp.erf(a))
    grouped: dict[tuple[sp.Expr, sp.Expr, Erfs], dict[int, sp.Expr]] = {}
    for summand in sp.Add.make_args(sp.expand(expr, func=False)):
        degree, coefficient = 0, sp.S.One
        exponent = sp.S.Zero
        erfs: Erfs = ()
        for factor in sp.Mul.make_args(summand):
            base, power = factor.as_base_exp()
            if not factor.has_free(y):
                coefficient *= factor
            elif isinstance(factor, sp.exp) or base == sp.E:
                exponent += factor.exp
            elif base == y and power.is_Integer and power > 0:
                degree += int(power)
            elif isinstance(base, sp.erf) and power.is_Integer and power > 0:
                slope, offset = _coefficients(base.args[0], y, 1, base)[1::-1]
                erfs += ((slope, offset),) * int(power)
            else:
                raise NotClosed(f"{factor} has no closed average over one field")
        offset, slope, square = _coefficients(exponent, y, 2, summand)
        powers = grouped.setdefault((-2 * square, slope, erfs), {})
        powers[degree] = powers.get(degree, sp.S.Zero) + coefficient * sp.exp(offset)
    return [Wave(tuple(sorted(p.items())), *key) for key, p in grouped.items()]


def _coefficients(argument: sp.Expr, y: sp.Symbol, degree: int, owner: sp.Expr) -> list[sp.Expr]:
    argument = sp.expand(argument)
    if not argument.is_polynomial(y) or sp.degree(argument, y) > degree:
        raise NotClosed(f"{owner} has no closed average over one field")
    return [argument.coeff(y, n) for n in range(degree + 1)]


def conditional_average(g: sp.Expr, y: sp.Symbol, variance: Fraction) -> Average:
    """E[g(y)] for y ~ N(mu, variance) as a function of mu, at the working precision."""
    parts = pieces(g, y)
    averages = []
    for low, high, value in _intervals(parts):
        for wave in waves(value, y) if value != 0 else ():
            cut = low is not None or high is not None
            if len(wave.erfs) > (0 if cut else 1):
                raise NotClosed(f"{value} beside switches has no closed average over one field")
            averages.append(_average(wave, real_ball(variance), low, high))

    def average(mu: Ball) -> Ball:
        total = flint().acb(0)
        for part in averages:
            total += part(mu)
        return total

    return average


def _intervals(parts: Pieces) -> list[tuple[Ball | None, Ball | None, sp.Expr]]:
    ends = [None, *(constant(b).real for b in parts.breaks), None]
    return [(a, b, v) for (a, b), v in zip(pairwise(ends), parts.values, strict=True)]


def _average(wave: Wave, v: Ball, low: Ball | None, high: Ball | None) -> Average:
    module = flint()
    curvature, slope = constant(wave.curvature), constant(wave.slope)
    powers = {n: constant(c) for n, c in wave.powers}
    top = max(powers)
    spread = 1 + curvature * v
    if not spread.real > 0:
        raise NotClosed("a Gaussian factor grows faster than the law decays")
    s2, size = v / spread, 1 / spread.sqrt()
    error = [(constant(a), constant(c)) for a, c in wave.erfs]

    def average(mu: Ball) -> Ball:
        shifted = (mu + slope * v) / spread
        # (mu'^2/s^2 - mu^2/v)/2 without the cancellation of the two.
        action = (slope * mu + slope * slope * v / 2 - curvature * mu * mu / 2) / spread
        if not error:
            moments = _truncated(shifted, s2, low, high, top)
        else:
            moments = _with_error_function(shifted, s2, *error[0], top)
        total = module.acb(0)
        for n, c in powers.items():
            total += c * moments[n]
        return size * action.exp() * total

    return average


def _truncated(mu: Ball, s2: Ball, low: Ball | None, high: Ball | None, top: int) -> list[Ball]:
    """Moments 0..top of N(mu, s2) over [low, high]."""
    module = flint()
    root = (2 * s2).sqrt()
    density = {}
    mass = module.acb(0)
    for end, side in ((high, 1), (low, -1)):
        if end is None:
            mass += 0.5
            continue
        z = (end - mu) / root
        mass += side * z.erf() / 2
        density[side] = (end, (-z * z).exp() / (root * module.arb.pi().sqrt()))
    moments = [mass]
    for n in range(1, top + 1):
        value = mu * moments[n - 1] + ((n - 1) * s2 * moments[n - 2] if n > 1 else 0)
        for side, (end, p) in density.items():
            value -= side * s2 * module.acb(end) ** (n - 1) * p
        moments.append(value)
    return moments


def _with_error_function(mu: Ball, s2: Ball, a: Ball, c: Ball, top: int) -> list[Ball]:
    """E[y^n erf(a y + c)] for y ~ N(mu, s2), n = 0..top."""
    spread = 1 + 2 * a * a * s2
    moments = [((a * mu + c) / spread.sqrt()).erf()]
    if top:
        # E[y^n exp(-(a y + c)^2)]: a Gaussian law again.
        size = (-((a * mu + c) ** 2) / spread).exp() / spread.sqrt()
        inner = _truncated((mu - 2 * a * c * s2) / spread, s2 / spread, None, None, top)
        weight = 2 * a / flint().arb.pi().sqrt() * s2 * size
    for n in range(1, top + 1):
        lowered = (n - 1) * s2 * moments[n - 2] if n > 1 else 0
        moments.append(mu * moments[n - 1] + lowered + weight * inner[n - 1])
    return moments
