"""Sums over neurons within averages: one pass over the nodes, not one for each neuron."""

from __future__ import annotations

import sympy as sp

from dmft.equations.averages.conditioned import conditioned
from dmft.equations.averages.expectation import Expectation, free_indices
from dmft.equations.averages.passes import needs_nodes, on_nodes


def sums_inside(expr: sp.Expr) -> sp.Expr:
    """Take sums over neurons into the averages that they add: one pass over the nodes, not many."""
    if isinstance(expr, Expectation) or not on_nodes(expr):
        return expr
    if not isinstance(expr, sp.Sum):
        return expr.func(*(sums_inside(e) for e in expr.args))
    factors = sp.Mul.make_args(sums_inside(expr.function))
    inside = [f for f in factors if isinstance(f, Expectation) and _is_whole(f)]
    if len(inside) != 1 or len(expr.limits) != 1:
        return expr
    index = expr.limits[0][0]
    bound: list[sp.Expr] = []
    free: list[sp.Expr] = []
    for f in (*(f for f in factors if f is not inside[0]), *sp.Mul.make_args(inside[0].integrand)):
        (bound if index in free_indices(f) else free).append(f)
    return Expectation(sp.Mul(*free, sp.Sum(sp.Mul(*bound), *expr.limits)))


def _is_whole(average: Expectation) -> bool:
    """Whether all fields of an average are on nodes."""
    return needs_nodes(average) and conditioned(average) is None
