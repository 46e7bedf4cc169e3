r"""Functions of one field: smooth pieces between proven break points, and their closed averages.

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
from functools import partial
from itertools import pairwise

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, as_fraction, constant, flint, rational, real_ball
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.kinks import arguments, branch, exact_zeros

# Bits at which break points are told apart.
BITS = 300


@dataclass(frozen=True)
class Pieces:
    """`values[i]` between `breaks[i - 1]` and `breaks[i]`, the outer ones unbounded."""

    breaks: tuple[sp.Expr, ...]
    values: tuple[sp.Expr, ...]


def pieces(expr: sp.Expr, x: sp.Symbol) -> Pieces:
    """Resolve every switch whose argument is a polynomial in x; the others stay.

    Between two neighbouring real roots a polynomial has one sign: that at a rational point.
    """
    found = _split(expr, x, None, None)
    breaks, values = [], [found[0][1]]
    for left, value in found[1:]:
        if value == values[-1]:
            continue
        breaks.append(left)
        values.append(value)
    return Pieces(tuple(breaks), tuple(values))


def _split(
    expr: sp.Expr, x: sp.Symbol, low: sp.Expr | None, high: sp.Expr | None
) -> list[tuple[sp.Expr | None, sp.Expr]]:
    """Left ends and smooth expressions on (low, high)."""
    node = _innermost(expr, x)
    if node is None:
        return [(low, expr)]
    roots = _inside({r for g in arguments(node) for r in _real_roots(g, x)}, low, high)
    result = []
    for left, right in pairwise([low, *roots, high]):
        here = {x: rational(_between(left, right))}
        value = branch(node, partial(_sign_at, here))
        result += _split(expr.xreplace({node: value}), x, left, right)
    return result


def _innermost(expr: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    """A switch without switches inside, all of its arguments polynomials in x."""
    for node in sp.postorder_traversal(expr):
        if isinstance(node, SWITCHES) and node.has_free(x):
            if all(g.is_polynomial(x) for g in arguments(node)):
                return node
            if isinstance(node, sp.Piecewise):
                raise NotClosed(f"the conditions of {node} are not polynomial comparisons")
    return None


def _sign_at(here: dict[sp.Symbol, sp.Rational], g: sp.Expr) -> int:
    with flint().ctx.workprec(BITS):
        if sp.expand(g) == 0:
            return 0
        value = constant(g.xreplace(here)).real
        if value > 0:
            return 1
        if value < 0:
            return -1
    raise NotClosed(f"the sign of {g} at {here} is not decided with {BITS} bits")


def _real_roots(g: sp.Expr, x: sp.Symbol) -> list[sp.Expr]:
    g = sp.expand(g)
    if not g.has_free(x):
        return []
    polynomial = sp.Poly(g.replace(lambda e: e.is_Float, lambda e: rational(as_fraction(e))), x)
    roots = exact_zeros(polynomial)
    if roots is None:
        raise NotClosed(f"the zeros of {g} are not isolated: its coefficients are not rational")
    return roots


def _inside(roots: set[sp.Expr], low: sp.Expr | None, high: sp.Expr | None) -> list[sp.Expr]:
    """Sorted roots strictly between the ends; equal ones counted once."""
    with flint().ctx.workprec(BITS):
        balls = sorted(((constant(r).real, r) for r in roots), key=lambda p: float(p[0]))
        kept: list[tuple[Ball, sp.Expr]] = []
        ends = [(constant(e).real, e) for e in (low, high) if e is not None]
        for ball, root in balls:
            if any(_same(ball, root, *known) for known in (*ends, *kept)):
                continue
            if (low is None or ball > ends[0][0]) and (high is None or ball < ends[-1][0]):
                kept.append((ball, root))
        # Neighbours closer than a float are still told apart.
        for i in range(len(kept) - 1, 0, -1):
            if kept[i][0] < kept[i - 1][0]:
                kept[i], kept[i - 1] = kept[i - 1], kept[i]
    return [r for _, r in kept]


def _same(ball: Ball, root: sp.Expr, other: Ball, known: sp.Expr) -> bool:
    if not ball.overlaps(other):
        return False
    if root == known or sp.expand(root - known) == 0 or sp.simplify(root - known) == 0:
        return True
    raise NotClosed(f"the break points {root} and {known} cannot be distinguished with {BITS} bits")


def _between(left: sp.Expr | None, right: sp.Expr | None) -> Fraction:
    """A rational point strictly between two ends."""
    with flint().ctx.workprec(BITS):
        if left is None and right is None:
            return Fraction(0)
        if left is None:
            return _fraction(constant(right).real.lower()) - 1
        if right is None:
            return _fraction(constant(left).real.upper()) + 1
        low, high = constant(left).real.upper(), constant(right).real.lower()
        return (_fraction(low) + _fraction(high)) / 2


def _fraction(exact: Ball) -> Fraction:
    """Value of an exact ball."""
    mantissa, exponent = exact.man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


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
                raise NotClosed(f"{value} with switches has no closed average over one field")
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
