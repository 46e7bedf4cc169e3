"""A function of one field as flat and strictly monotone pieces, with exact ends where possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.kinks import branch, exact_zeros, switches, zeros

# Standard deviations of the field within which pieces are found; averages reach 9 sqrt(2) of them.
REACH = 13.0
# Strictly monotone functions of a real argument on their whole domain.
MONOTONE = (sp.erf, sp.tanh, sp.atan, sp.sinh, sp.asinh, sp.exp, sp.log, sp.erfc)
# Break points closer than this are one.
SAME = 1e-12


@dataclass(frozen=True)
class Piece:
    """y = expr(z) for low < z < high: "flat", "affine", "quadratic" or "monotone"."""

    low: sp.Expr
    high: sp.Expr
    expr: sp.Expr
    kind: str
    rising: bool

    @property
    def is_flat(self) -> bool:
        """Whether the label is constant on the piece."""
        return self.kind == "flat"


def stripped(expr: sp.Expr, fields: tuple[sp.Symbol, ...]) -> tuple[sp.Expr, sp.Expr, sp.Symbol]:
    """Inner function u of y = F(u) with F strictly monotone, then F and its symbol.

    A channel depends on the label through its level sets only, and outer functions saturate in
    floating point. Affine maps are removed only together with a function within them.
    """
    u = sp.Symbol("u", real=True)
    outer, inner = u, expr
    best = (expr, u, u)
    while (step := _outermost(inner, fields, u)) is not None:
        inner, shape, is_curved = step
        outer = outer.xreplace({u: shape})
        if is_curved:
            best = (inner, outer, u)
    return best


def _outermost(
    expr: sp.Expr, fields: tuple[sp.Symbol, ...], u: sp.Symbol
) -> tuple[sp.Expr, sp.Expr, bool] | None:
    """The argument of an outermost strictly monotone function, the function, whether curved."""
    if isinstance(expr, sp.Add | sp.Mul):
        constant, inner = expr.as_independent(*fields, as_Add=isinstance(expr, sp.Add))
        if constant == expr.func.identity:
            return None
        return inner, expr.func(constant, u), False
    if isinstance(expr, MONOTONE):
        return expr.args[0], expr.func(u), True
    if isinstance(expr, sp.Pow) and expr.exp.is_number:
        odd = expr.exp.is_Integer and expr.exp.is_odd and expr.exp > 0
        if odd or (expr.base.is_nonnegative and expr.exp.is_positive):
            return expr.base, u**expr.exp, True
    if isinstance(expr, sp.Pow) and expr.base.is_number and expr.base > 1:
        return expr.exp, expr.base**u, True
    return None


def pieces(expr: sp.Expr, z: sp.Symbol, reach: float = REACH) -> tuple[Piece, ...]:
    """Split the line at switches and critical points; flat neighbours of one value are joined."""
    found: list[Piece] = []
    for low, high, smooth in _smooth_pieces(expr, z, reach):
        derivative = _slope(smooth, z)
        inner = zeros_of([derivative], z, reach) if derivative.has_free(z) else []
        ends = [low, *(c for c in inner if _below(low, c) and _below(c, high)), high]
        for left, right in pairwise(ends):
            piece = _piece(left, right, smooth, z)
            last = found[-1] if found else None
            if last is not None and piece.is_flat and last.is_flat and last.expr == piece.expr:
                found[-1] = Piece(last.low, right, last.expr, "flat", True)
            else:
                found.append(piece)
    return tuple(found)


def _slope(expr: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """Derivative, with 1 - tanh^2 as 1/cosh^2, which does not vanish in floating point."""
    return sp.diff(expr, z).replace(
        lambda f: f.is_Pow and f.exp == 2 and isinstance(f.base, sp.tanh),
        lambda f: 1 - 1 / sp.cosh(f.base.args[0]) ** 2,
    )


def _smooth_pieces(
    expr: sp.Expr, z: sp.Symbol, reach: float
) -> list[tuple[sp.Expr, sp.Expr, sp.Expr]]:
    """Intervals between zeros of switching functions, with the branch on each."""
    ends = [-sp.oo, *zeros_of(switches(expr, (z,)), z, reach), sp.oo]
    result: list[tuple[sp.Expr, sp.Expr, sp.Expr]] = []
    for low, high in pairwise(ends):
        branch = resolved(expr, {z: inside(low, high)})
        branch = sp.expand(branch) if branch.is_polynomial(z) else branch
        if result and result[-1][2] == branch:
            low = result.pop()[0]
        result.append((low, high, branch))
    return result


def resolved(expr: sp.Expr, point: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The smooth branch of an expression about a point that is no switch."""
    return without_kinks(expr, lambda k: branch(k, lambda g: int(sp.sign(g.xreplace(point).n()))))


def with_one_sign(expr: sp.Expr) -> sp.Expr:
    """The same, expanded; SymPy keeps sign(x - y) and -sign(y - x), |x - y| and |y - x| apart."""
    return sp.expand(expr).replace(
        lambda f: isinstance(f, sp.sign | sp.Abs) and f.args[0].could_extract_minus_sign(),
        lambda f: (-1 if isinstance(f, sp.sign) else 1) * f.func(sp.expand(-f.args[0])),
    )


def without_kinks(expr: sp.Expr, branch: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """An expression with a branch in place of each function with kinks, the innermost first."""
    while kinked := expr.atoms(*SWITCHES):
        node = min(kinked, key=lambda k: (len(k.atoms(*SWITCHES)), sp.default_sort_key(k)))
        expr = expr.xreplace({node: branch(node)})
    return expr


def zeros_of(functions: list[sp.Expr], z: sp.Symbol, reach: float) -> list[sp.Expr]:
    """Real zeros in (-reach, reach), sorted and distinct: exact where SymPy isolates them."""
    found: list[sp.Expr] = []
    for function in functions:
        found += _exact_roots(function, z, reach) or [
            sp.Float(str(r), 17) for r in zeros([function], z, reach)
        ]
    found.sort(key=float)
    distinct: list[sp.Expr] = []
    for root in found:
        if not distinct or float(root) - float(distinct[-1]) > SAME:
            distinct.append(root)
    return distinct


def _exact_roots(function: sp.Expr, z: sp.Symbol, reach: float) -> list[sp.Expr]:
    """Zeros of a polynomial with rational coefficients, or of a factor of a product."""
    numerator = sp.Mul(*(f for f in sp.Mul.make_args(sp.factor(function)) if _vanishes(f)))
    if not numerator.is_polynomial(z) or not numerator.has_free(z):
        return []
    roots = exact_zeros(sp.Poly(numerator, z)) or []
    return [r for r in roots if abs(float(r)) < reach]


def _vanishes(factor: sp.Expr) -> bool:
    """Whether a factor may be zero."""
    return not isinstance(factor, sp.exp) and factor.is_nonzero is not True


def _below(a: sp.Expr, b: sp.Expr) -> bool:
    return float(a) < float(b) - SAME


def inside(low: sp.Expr, high: sp.Expr) -> sp.Expr:
    """A point strictly between two ends, off the middle, where products may vanish."""
    if low == -sp.oo and high == sp.oo:
        return sp.Float("0.3719")
    if low == -sp.oo:
        return sp.Float(float(high) - 0.7319)
    if high == sp.oo:
        return sp.Float(float(low) + 0.7319)
    return sp.Float(0.4637 * float(low) + 0.5363 * float(high))


def _piece(low: sp.Expr, high: sp.Expr, expr: sp.Expr, z: sp.Symbol) -> Piece:
    if not expr.has_free(z):
        return Piece(low, high, expr, "flat", True)
    at = _slope(expr, z).xreplace({z: inside(low, high)}).n()
    if not (at.is_Float and at.is_finite):
        raise BadParameter(f"label {expr} is not a real function between {low} and {high}")
    degree = sp.degree(expr, z) if expr.is_polynomial(z) else 0
    kind = {1: "affine", 2: "quadratic"}.get(int(degree), "monotone")
    return Piece(low, high, expr, kind, bool(at > 0))
