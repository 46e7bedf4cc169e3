"""Kinks and jumps as signs: every function that switches at a zero is a polynomial in signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from dmft.gaussian import refuse

SWITCHES = (sp.sign, sp.Abs, sp.Heaviside, sp.Max, sp.Min, sp.Piecewise)
HALF = sp.Rational(1, 2)
# Kinks inside a switching function: each doubles the terms.
MOST_INNER = 5


def to_signs(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """Write |u|, Heaviside, Max, Min and Piecewise with signs of the fields (equal off the kinks).

    Values on the zero set itself have no weight under a Gaussian law with a density there.
    """
    if not expr.has(*SWITCHES) or not expr.has_free(*fields):
        return expr
    if isinstance(expr, sp.Piecewise):
        return _pieces(expr, fields)
    args = [to_signs(a, fields) for a in expr.args]
    if isinstance(expr, sp.sign):
        return _sign(args[0], fields)
    if isinstance(expr, sp.Abs):
        return args[0] * _sign(args[0], fields)
    if isinstance(expr, sp.Heaviside):
        return HALF + HALF * _sign(args[0], fields)
    if isinstance(expr, sp.Max | sp.Min):
        return _extreme(args, 1 if isinstance(expr, sp.Max) else -1, fields)
    return expr.func(*args)


def linear_in_signs(expr: sp.Expr) -> sp.Expr:
    """A function of signs as a polynomial in them, linear in each: equal where none is zero.

    Its derivative has the heights of the jumps in front of Dirac deltas; that of a function of a
    sign by the chain rule has not.
    """
    for sign in sorted(expr.atoms(sp.sign), key=sp.default_sort_key):
        if expr.is_polynomial(sign) and sp.degree(expr, sign) <= 1:
            continue
        one, other = (expr.xreplace({sign: sp.Integer(value)}) for value in (1, -1))
        parts = ((one + other) / 2, (one - other) / 2)
        even, odd = (sp.simplify(e) if e.is_number else e for e in parts)
        expr = even + sign * odd
    return expr


def intervals(expr: sp.Expr, x: sp.Symbol) -> tuple[list[sp.Expr], list[sp.Expr]] | None:
    """Zeros of the signs in a function of x, and the function between them; both ascending.

    None if an argument of a sign is not linear in x with numbers.
    """
    found = sorted(expr.atoms(sp.sign), key=sp.default_sort_key)
    arguments = [sp.expand(s.args[0]) for s in found]
    slopes = [u.diff(x) for u in arguments]
    if not all(b.is_number and b != 0 for b in slopes):
        return None
    zeros = {-u.xreplace({x: sp.S.Zero}) / b for u, b in zip(arguments, slopes, strict=True)}
    edges = sorted(zeros)
    inside = [(a + b) / 2 for a, b in pairwise(edges)]
    parts = []
    for t in (edges[0] - 1, *inside, edges[-1] + 1) if edges else (sp.S.Zero,):
        known = {s: s.xreplace({x: t}) for s in found}
        parts.append(sp.expand(expr.xreplace(known)))
    return edges, parts


def without_fixed(
    expr: sp.Expr, fields: Sequence[sp.Symbol], value: Callable[[sp.Expr], sp.Expr | None]
) -> sp.Expr:
    """Put numbers in the place of switching functions that do not vary.

    `value` gives that of a linear argument of variance zero, and None for any other: there the
    zero set has weight, and what a sign or a comparison is on it counts.
    """
    known: dict[sp.Basic, sp.Basic] = {}
    for atom in expr.atoms(sp.sign, sp.Heaviside, Relational):
        related = isinstance(atom, Relational)
        argument = atom.lhs - atom.rhs if related else atom.args[0]
        if not (argument.has_free(*fields) and argument.is_polynomial(*fields)):
            continue
        number = value(argument) if sp.Poly(argument, *fields).total_degree() == 1 else None
        if number is not None:
            known[atom] = atom.func(number, *([0] if related else atom.args[1:]))
    return expr.xreplace(known) if known else expr


def _sign(u: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """Sign of u as a product of signs of linear factors where u is a product."""
    result = sp.S.One
    for factor in sp.Mul.make_args(_factored(u, fields)):
        base, exponent = factor.as_base_exp()
        if not factor.has_free(*fields):
            result *= sp.sign(factor)
        elif isinstance(factor, sp.exp):
            continue
        elif isinstance(base, sp.sign) and exponent.is_Integer:
            result *= base if exponent % 2 else 1
        elif exponent.is_Integer:
            result *= _by_branches(base, fields) if exponent % 2 else 1
        else:
            result *= sp.sign(factor)
    return result


def _by_branches(u: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """Sign of u, which may hold signs itself: of what u is where those are 1 and -1."""
    inner = [s for s in u.atoms(sp.sign) if s.has_free(*fields)]
    if not inner or len(inner) > MOST_INNER:
        return sp.sign(u)
    first = min((s for s in inner if not s.args[0].has(sp.sign)), key=sp.default_sort_key)
    up, down = (_sign(sp.expand(u.xreplace({first: sp.Integer(k)})), fields) for k in (1, -1))
    return HALF * (1 + first) * up + HALF * (1 - first) * down


def _factored(u: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    present = [x for x in fields if u.has_free(x)]
    if len(present) == 1 and u.is_polynomial(*present) and sp.degree(u, present[0]) > 1:
        x = present[0]
        coefficients = sp.Poly(u, x)
        roots = sp.roots(coefficients)
        real = all(r.is_real is not None for r in roots)
        if sum(roots.values()) == coefficients.degree() and real:
            # A pair of complex roots never changes the sign.
            parts = [(x - r) ** n for r, n in roots.items() if r.is_real]
            return sp.Mul(coefficients.LC(), *parts)
    return sp.factor_terms(u)


def _extreme(args: Iterable[sp.Expr], direction: int, fields: Sequence[sp.Symbol]) -> sp.Expr:
    first, *rest = args
    for other in rest:
        gap = first - other
        first = HALF * (first + other) + HALF * direction * gap * _sign(gap, fields)
    return merged(first, fields)


def merged(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """Expand, and write products of signs of one field as sums of single ones.

    sign(x - s) sign(x - t) = 1 - sign(x - s) + sign(x - t) for s < t: pieces of a line stay as
    many as they are.
    """
    done, todo = [], list(sp.Add.make_args(sp.expand(expr)))
    while todo:
        term = todo.pop()
        pair = _steps_of_one_field(term, fields)
        if pair is None:
            done.append(term)
            continue
        (early, up), (late, down) = pair
        # In terms of signs that rise: sign(a x + b) = sign(a) sign(x + b / a).
        rest = term / (early * late)
        todo += [rest * up * down, -rest * down * early, rest * up * late]
    return sp.Add(*done)


def _steps_of_one_field(
    term: sp.Expr, fields: Sequence[sp.Symbol]
) -> tuple[tuple[sp.Expr, int], tuple[sp.Expr, int]] | None:
    """Two signs of one field with the directions in which they step, the earlier one first."""
    found: dict[sp.Symbol, tuple[sp.Expr, sp.Expr, int]] = {}
    for factor in sp.Mul.make_args(term):
        x = next((x for x in fields if factor.has_free(x)), None)
        if x is None or not isinstance(factor, sp.sign) or factor.free_symbols != {x}:
            continue
        slope, offset = (factor.args[0].coeff(x, n) for n in (1, 0))
        if sp.expand(slope * x + offset - factor.args[0]) != 0:
            continue
        place, way = -offset / slope, 1 if slope > 0 else -1
        if x in found and found[x][1] != place:
            other = found[x]
            pair = ((other[0], other[2]), (factor, way))
            return pair if other[1] < place else (pair[1], pair[0])
        found[x] = (factor, place, way)
    return None


def _pieces(expr: sp.Piecewise, fields: Sequence[sp.Symbol]) -> sp.Expr:
    total, left = sp.S.Zero, sp.S.One
    for value, condition in expr.args:
        here = _indicator(condition, expr, fields)
        total += to_signs(value, fields) * merged(left * here, fields)
        left = merged(left * (1 - here), fields)
    if left != 0:
        raise refuse(expr, "its pieces do not cover the line")
    return total


def _indicator(condition: Boolean, owner: sp.Expr, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """Indicator of a condition as a polynomial in signs."""
    if condition == sp.true:
        return sp.S.One
    if isinstance(condition, sp.Eq | sp.Ne):
        return sp.S.Zero if isinstance(condition, sp.Eq) else sp.S.One
    if isinstance(condition, Relational):
        return HALF + HALF * _sign(to_signs(condition.gts - condition.lts, fields), fields)
    if isinstance(condition, sp.Not):
        return 1 - _indicator(condition.args[0], owner, fields)
    parts = [_indicator(c, owner, fields) for c in condition.args]
    if isinstance(condition, sp.And):
        return sp.Mul(*parts)
    if isinstance(condition, sp.Or):
        return 1 - sp.Mul(*[1 - p for p in parts])
    raise refuse(owner, f"its condition {condition} is not a comparison")


def may_hold_branches(factor: sp.Basic) -> bool:
    """Whether it contains exponentials and kinks or jumps (`dmft.gaussian.branch_family`)."""
    return bool(factor.has(sp.exp, sp.sinh, sp.cosh) and factor.has(*SWITCHES))
