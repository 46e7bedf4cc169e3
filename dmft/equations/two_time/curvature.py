"""Slopes of the gradients of a sample by its fields."""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.equations.two_time.descent_process import H
from dmft.gaussian.derivative import derivative


@lru_cache(maxsize=32)
def curvature(sample: tuple[Definition, ...]) -> Definition:
    r"""H_jl = dg_j/dh_l of what a sample computes, the distributional part of kinks included.

    Equation    for the gradient of a loss, H_jl = l'' a_j a_l sigma'_j sigma'_l / p^2
                + delta_jl l' a_j sigma''_j / p
    Source      theory/batch_reuse 0
    """
    slopes: dict[sp.Expr, sp.Expr] = {}

    def slope(expr: sp.Expr) -> sp.Expr:
        """Derivative by h_l of an expression in fields and in scalars of the sample."""
        names = {y: sp.Dummy(real=True) for y in expr.atoms(sp.Sum)}
        plain = expr.xreplace(names)
        names |= {y: sp.Dummy(real=True) for y in plain.atoms(At)}
        plain = plain.xreplace(names)
        names |= {y: sp.Dummy(real=True) for y in plain.atoms(sp.Indexed) if y.base == x.h}
        names |= {y: sp.Dummy(real=True) for y in plain.free_symbols & slopes.keys()}
        plain = plain.xreplace(names)
        back = {dummy: y for y, dummy in names.items()}
        return sp.Add(
            *(_met(sp.diff(plain, dummy)).xreplace(back) * inner(y) for y, dummy in names.items())
        )

    def inner(y: sp.Expr) -> sp.Expr:
        if isinstance(y, sp.Sum):
            ((index, low, high),) = y.limits
            running = sp.Dummy(index.name, integer=True)
            body = sp.expand(slope(y.function.xreplace({index: running})))
            delta = sp.KroneckerDelta(running, x.l)
            rest = body.coeff(delta, 0)
            others = sp.Sum(rest, (running, low, high)) if rest != 0 else sp.S.Zero
            return body.coeff(delta).xreplace({running: x.l}) + others
        if isinstance(y, At):
            return At(derivative(y.factor), y.field) * slope(y.field)
        if isinstance(y, sp.Indexed):
            return sp.KroneckerDelta(y.indices[0], x.l)
        return slopes[y]

    for d in sample:
        if isinstance(d.target, sp.Symbol):
            slopes[d.target] = slope(d.expr)
    (gradient,) = (d for d in sample if d.name == "g")
    return define(H[x.j, x.l], {name: slope(e) for name, e in gradient.terms}, "rate")


def _met(expr: sp.Expr) -> sp.Expr:
    """An expression without Dirac deltas at places where another branch of a Piecewise holds."""

    def vanishes(delta: sp.Expr, earlier: list[sp.Basic]) -> bool:
        """Whether an earlier branch holds where the argument of a delta is zero."""
        lines = (delta.args[0].as_poly(s) for s in delta.args[0].free_symbols)
        line = next((p for p in lines if p is not None and p.degree() == 1), None)
        if line is None:
            return False
        slope, offset = line.all_coeffs()
        return any(c.xreplace({line.gen: -offset / slope}) == sp.true for c in earlier)

    def plain(*cases: sp.Basic) -> sp.Expr:
        earlier: list[sp.Basic] = []
        kept = []
        for value, condition in cases:
            zero = {d: sp.S.Zero for d in value.atoms(sp.DiracDelta) if vanishes(d, earlier)}
            kept.append((value.xreplace(zero), condition))
            earlier.append(condition)
        return sp.Piecewise(*kept)

    return expr.replace(sp.Piecewise, plain) if expr.has(sp.DiracDelta) else expr
