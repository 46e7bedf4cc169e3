"""Functions of one field as smooth pieces between proven break points."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise

import sympy as sp
from sympy.core.relational import Relational

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, constant, exact_fraction, flint

SWITCHES = (sp.Abs, sp.sign, sp.Heaviside, sp.Max, sp.Min, sp.Piecewise)
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
    roots = _inside({r for g in _arguments(node) for r in _real_roots(g, x)}, low, high)
    result = []
    for left, right in pairwise([low, *roots, high]):
        branch = _branch(node, x, _between(left, right))
        result += _split(expr.xreplace({node: branch}), x, left, right)
    return result


def _innermost(expr: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    """A switch without switches inside, all of its arguments polynomials in x."""
    for node in sp.postorder_traversal(expr):
        if isinstance(node, SWITCHES) and node.has_free(x):
            if all(g.is_polynomial(x) for g in _arguments(node)):
                return node
            if isinstance(node, sp.Piecewise):
                raise NotClosed(f"the conditions of {node} are not polynomial comparisons")
    return None


def _arguments(node: sp.Expr) -> list[sp.Expr]:
    if isinstance(node, sp.Max | sp.Min):
        return [a - b for a, b in combinations(node.args, 2)]
    if isinstance(node, sp.Piecewise):
        relations = {r for _, c in node.args for r in c.atoms(Relational)}
        return [r.lhs - r.rhs for r in relations]
    return [node.args[0]]


def _branch(node: sp.Expr, x: sp.Symbol, point: Fraction) -> sp.Expr:
    """What the switch is around a point."""
    here = {x: sp.Rational(point.numerator, point.denominator)}
    if isinstance(node, sp.Piecewise):
        for value, condition in node.args:
            truth = {r: _truth(r, here) for r in condition.atoms(Relational)}
            if condition.xreplace(truth) == sp.true:
                return value
        raise NotClosed(f"the pieces of {node} do not cover the line")
    if isinstance(node, sp.Max | sp.Min):
        direction = 1 if isinstance(node, sp.Max) else -1
        best = node.args[0]
        for other in node.args[1:]:
            if direction * _sign_at(other - best, here) > 0:
                best = other
        return best
    side = _sign_at(node.args[0], here)
    if isinstance(node, sp.Abs):
        return side * node.args[0]
    if isinstance(node, sp.Heaviside):
        return sp.Integer(side > 0)
    return sp.Integer(side)


def _truth(relation: Relational, here: dict[sp.Symbol, sp.Rational]) -> sp.Basic:
    """Truth of a comparison off its zero set."""
    if isinstance(relation, sp.Eq | sp.Ne):
        return sp.false if isinstance(relation, sp.Eq) else sp.true
    return sp.true if _sign_at(relation.gts - relation.lts, here) > 0 else sp.false


def _sign_at(g: sp.Expr, here: dict[sp.Symbol, sp.Rational]) -> int:
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
    polynomial = sp.Poly(g.replace(lambda e: e.is_Float, _rational), x)
    if polynomial.domain.is_ZZ or polynomial.domain.is_QQ:
        return list(dict.fromkeys(polynomial.real_roots()))
    if polynomial.degree() == 1:
        slope, offset = polynomial.all_coeffs()
        return [sp.cancel(-offset / slope)]
    raise NotClosed(f"the zeros of {g} are not isolated: its coefficients are not rational")


def _rational(number: sp.Expr) -> sp.Expr:
    value = exact_fraction(number)
    assert value is not None
    return sp.Rational(value.numerator, value.denominator)


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
    raise NotClosed(f"the break points {root} and {known} are not told apart with {BITS} bits")


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
